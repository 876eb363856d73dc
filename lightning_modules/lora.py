"""LoRA through peft: the weight-space baseline of DHAM's Table 1.

"LoRA: Low-Rank Adaptation of Large Language Models", Hu et al., 2021, arXiv:2106.09685. DHAM: "Unlocking
coherent reasoning in LLMs with hierarchical soft prompts", anonymous, under review.
"""

import copy

import torch
from torch import nn

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.utilities.checks import check_maximum, check_minimum
from promptstage.utilities.errors import UserError


class LoRA(SoftPromptModule):
    """Low-rank updates of the backbone's weights; no prefix.

    Usage::

        promptstage fit --model LoRA --model.rank 8 --data GSM8K
    """

    def __init__(
        self,
        backbone: BackboneLike = BackboneConfig(),
        rank: int = 8,
        alpha: int = 16,
        target_modules: list[str] | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model: its configuration, name or path, or a loaded one to share.
            rank: rank of each update.
            alpha: scale of the updates, times the rank: they are multiplied by alpha / rank.
            target_modules: names of the linear layers to update; None: peft's default for the model family
                (query and value projections), or all linear layers of the decoder blocks if it has none.
            optimizer: settings of AdamW and its schedule.
            val_generations: validation questions to generate for at each validation; 0 for the loss alone.

        Raises:
            UserError: for a rank or alpha out of range.
        """
        super().__init__(backbone, optimizer, val_generations)
        check_minimum({"LoRA rank": rank, "LoRA alpha": alpha}, 1)
        self._shares_backbone = hasattr(self, "backbone")
        self.rank = rank
        self.alpha = alpha
        self.target_modules = target_modules

    def configure_prompts(self, generator: torch.Generator) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        check_maximum({"LoRA rank": self.rank}, self.backbone.hidden_size, "hidden size of the backbone")
        if self._shares_backbone:
            self.backbone = with_own_modules(self.backbone)
        targets = self.target_modules or _default_targets(self.backbone)
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=targets)
        with torch.random.fork_rng(devices=[]):
            # peft draws from the global generator; ours decides, on every rank alike.
            torch.manual_seed(generator.initial_seed())
            try:
                inject_adapter_in_model(config, self.backbone.model)
            except ValueError as error:
                raise UserError(f"LoRA cannot be added: {str(error).splitlines()[0]}") from error
        for name, module in self.backbone.model.named_modules():
            if name.endswith(("lora_A", "lora_B")):
                module.float()  # master weights stay float32 over a bfloat16 backbone

    def structure(self) -> dict[str, object]:
        return {"alpha": self.alpha}


def _default_targets(backbone: Backbone) -> list[str] | None:
    """Return the full names of the decoder blocks' linear layers; None: peft has a default for the model."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    if backbone.model.config.model_type in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        return None
    linear = {part for layer in backbone.layers for part in layer.modules() if _is_linear(part)}
    return [name for name, module in backbone.model.named_modules() if module in linear]


def _is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer; a family's own subclasses, such as routers, do more."""
    return isinstance(module, nn.Linear) and not type(module).__module__.startswith("transformers.models.")


def with_own_modules(backbone: Backbone) -> Backbone:
    """Copy a backbone's modules but not its weights, so that adapters are added to the copy alone."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    return copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})

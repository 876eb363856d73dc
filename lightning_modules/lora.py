"""LoRA through peft: the weight-space baseline of DHAM's Table 1.

"LoRA: Low-Rank Adaptation of Large Language Models", Hu et al., 2021, arXiv:2106.09685. DHAM: "Unlocking
coherent reasoning in LLMs with hierarchical soft prompts", anonymous, under review.
"""

import copy
import warnings
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import nn

from promptstage.lightning_modules.backbone.linear_layers import never_called
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.utilities.checks import check_maximum, check_minimum
from promptstage.utilities.errors import UserError, choose

ALL_LINEAR = "all-linear"


class LoRA(SoftPromptModule):
    """Low-rank updates of the backbone's weights; no prefix.

    Usage::

        promptstage fit --model LoRA --model.rank 8 --data GSM8K
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-5, 0.1)

    def __init__(
        self,
        backbone: BackboneLike = BackboneConfig(),
        rank: int = 8,
        alpha: int = 16,
        target_modules: list[str] | Literal["all-linear"] | None = "all-linear",
        rank_stabilized: bool = False,
        optimizer: OptimizerConfig = OptimizerConfig(),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model: its configuration, name or path, or a loaded one to share.
            rank: rank of each update.
            alpha: scale of the updates, which are multiplied by alpha / rank.
            target_modules: names of the linear layers to update; ``all-linear``: all of the decoder blocks;
                None: peft's default for the model type, usually the query and value projections.
            rank_stabilized: multiply the updates by alpha / sqrt(rank) instead, so that their size does not
                fall with the rank ("A rank stabilization scaling factor for fine-tuning with LoRA",
                Kalajdzievski, 2023, arXiv:2312.03732).
            optimizer: settings of AdamW and its schedule.
            val_generations: validation questions to generate for at each validation; 0 for the loss alone.

        Raises:
            UserError: for a rank or alpha out of range, an unknown name of layers, or a backbone that is
                quantized for generation.
        """
        super().__init__(backbone, optimizer, val_generations)
        self.backbone_config.check_full_precision("LoRA")
        check_minimum({"LoRA rank": rank, "LoRA alpha": alpha}, 1)
        if isinstance(target_modules, str):
            choose("target_modules", target_modules, [ALL_LINEAR])
        self._shares_backbone = hasattr(self, "backbone")
        self.rank = rank
        self.alpha = alpha
        self.target_modules = target_modules
        self.rank_stabilized = rank_stabilized

    def configure_prompts(self, generator: torch.Generator) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        check_maximum({"LoRA rank": self.rank}, self.backbone.hidden_size, "hidden size of the backbone")
        if self._shares_backbone:
            self.backbone = with_own_modules(self.backbone)
        all_linear = self.target_modules == ALL_LINEAR
        # In the whole model, all linear layers include an image encoder's, and peft renames those of experts.
        adapted = nn.ModuleList(self.backbone.layers) if all_linear else self.backbone.model
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=self.target_modules,
            exclude_modules=(_not_adaptable(self.backbone) or None) if all_linear else None,
            use_rslora=self.rank_stabilized,
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # set for GPT-2's layers by peft
            # peft draws from the global generator; ours decides, on every rank alike.
            torch.manual_seed(generator.initial_seed())
            try:
                inject_adapter_in_model(config, adapted)
            except ValueError as error:
                raise UserError(f"LoRA cannot be added: {str(error).splitlines()[0]}") from error
        for name, module in self.backbone.model.named_modules():
            if name.endswith(("lora_A", "lora_B")):
                module.float()  # master weights stay float32 over a bfloat16 backbone

    def structure(self) -> dict[str, object]:
        scaling: dict[str, object] = {"rank_stabilized": True} if self.rank_stabilized else {}
        return {"alpha": self.alpha, **scaling}


def _not_adaptable(backbone: Backbone) -> list[str]:
    """Return the names in the blocks of linear layers that an adapter would break, or have no effect on."""
    return [*_other_outputs(backbone.layers), *never_called(backbone)]


def _other_outputs(layers: Sequence[nn.Module]) -> list[str]:
    """Return the names in ``layers`` of linear layers whose class in the model returns more (routers)."""
    own = {type(layer).__module__ for layer in layers}
    return [
        name
        for name, module in nn.ModuleList(layers).named_modules()
        if isinstance(module, nn.Linear)
        and type(module).__module__ in own
        and type(module).forward is not nn.Linear.forward
    ]


def with_own_modules(backbone: Backbone) -> Backbone:
    """Copy a backbone's modules but not its weights, so that adapters are added to the copy alone."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    return copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})

"""LoRA (Hu et al. 2022) through peft: the weight-space baseline of DHAM's Table 1."""

import torch

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.utilities.errors import UserError


class LoRA(SoftPromptModule):
    """Low-rank updates of the backbone's weights; no prefix."""

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),
        rank: int = 8,
        alpha: int = 16,
        target_modules: list[str] | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model.
            rank: rank of each update.
            alpha: updates are scaled by alpha / rank.
            target_modules: names of the linear layers to update; ``None`` takes peft's choice for the
                family (query and value projections).
            optimizer: AdamW and its schedule.
            val_generations: validation questions answered at each validation; 0 for the loss alone.

        Raises:
            UserError: when rank or alpha is out of range, or no layer has such a name.
        """
        super().__init__(backbone, optimizer, val_generations)
        if rank < 1:
            raise UserError(f"LoRA rank must be at least 1, not {rank}")
        if alpha < 1:
            raise UserError(f"LoRA alpha must be >= 1, got {alpha}")
        self.rank = rank
        self.alpha = alpha
        self.target_modules = target_modules

    def configure_prompts(self, generator: torch.Generator) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        if self.rank > (width := self.backbone.hidden_size):
            raise UserError(f"LoRA rank must be <= {width}, the backbone's hidden size, got {self.rank}")
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=self.target_modules)
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

"""Full fine-tuning: the baseline that trains all weights, and the pretraining of small models."""

import copy
from typing import ClassVar

import torch

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.utilities.errors import UserError


class FullFineTuning(SoftPromptModule):
    """All weights of the backbone, trained; no prefix.

    The model stays in eval mode, without dropout. Checkpoints contain all weights and AdamW's two moments of
    each. At the end of a fit, the folder ``backbone`` of the run contains the model in Hugging Face format,
    so that the run folder can be another run's backbone.

    Usage::

        promptstage fit --model FullFineTuning --model.optimizer.lr 5e-5 --data GSM8K --run_dir runs/tuned
        promptstage fit --model PrefixTuning --backbone.name runs/tuned --data GSM8K

    Pretraining of a small model from its configuration alone::

        promptstage fit --model FullFineTuning --backbone.name FOLDER --backbone.init_seed 0 --data GSM8K
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-6, 1e-2)

    def __init__(
        self,
        backbone: BackboneLike = BackboneConfig(),
        optimizer: OptimizerConfig = OptimizerConfig(lr=5e-5),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the language model to start from: its configuration, name or path, or a loaded one,
                whose own weights stay as they are.
            optimizer: settings of AdamW and its schedule.
            val_generations: validation questions to generate for at each validation; 0 for the loss alone.

        Raises:
            UserError: if the backbone is sharded, in 4 bits, or narrower than float32.
        """
        super().__init__(backbone, optimizer, val_generations)
        config = self.backbone_config
        allowed = {"shard": "none", "quantization": "none"}
        for option, value in allowed.items():
            if (given := getattr(config, option)) != value:
                raise UserError(
                    f"FullFineTuning trains all weights on each rank: backbone.{option} must be {value}, "
                    f"got {given}"
                )
        if config.dtype not in ("float32", "float64", "auto"):
            raise UserError(
                "FullFineTuning trains weights in float32: backbone.dtype must be float32, got "
                f"{config.dtype} (for less memory: --trainer.precision bf16-mixed)"
            )
        self._shares_backbone = hasattr(self, "backbone")

    def configure_prompts(self, generator: torch.Generator) -> None:
        if self._shares_backbone:
            self.backbone = copy.deepcopy(self.backbone)
        self.backbone.model.requires_grad_(True)

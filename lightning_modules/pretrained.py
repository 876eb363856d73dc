"""The bare backbone: the baseline of every table."""

import torch

from lightning_modules.backbone.loading import BackboneConfig
from lightning_modules.base import SoftPromptModule
from lightning_modules.optimisation import OptimizerConfig


class Pretrained(SoftPromptModule):
    """Nothing is trained: for ``validate``, ``test`` and ``predict``."""

    def __init__(self, backbone: BackboneConfig = BackboneConfig(), val_generations: int = 64) -> None:
        """
        Args:
            backbone: the frozen language model.
            val_generations: validation questions answered in ``validate``.
        """
        super().__init__(backbone, OptimizerConfig(), val_generations)

    def configure_prompts(self, generator: torch.Generator) -> None:
        """There is none."""

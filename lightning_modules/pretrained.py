"""The bare backbone: the baseline of every table."""

import torch

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.optimization import OptimizerConfig


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

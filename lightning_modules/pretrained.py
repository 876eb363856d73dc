"""Backbone without a prompt: the baseline of every table."""

import torch

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike


class Pretrained(SoftPromptModule):
    """Backbone without trained parameters, for ``validate``, ``test`` and ``predict``.

    Usage::

        promptstage test --model Pretrained --data GSM8K
    """

    def __init__(self, backbone: BackboneLike = BackboneConfig(), val_generations: int = 64) -> None:
        """
        Args:
            backbone: the frozen language model: its configuration, name or path, or a loaded one to share.
            val_generations: validation questions to generate for in ``validate``.
        """
        super().__init__(backbone, OptimizerConfig(), val_generations)

    def configure_prompts(self, generator: torch.Generator) -> None:
        """Create nothing."""

"""Anchor re-weighting: trained factors on the attention to the label words of demonstrations.

Wang et al., "Label words are anchors: an information flow perspective for understanding in-context learning",
EMNLP 2023, arXiv:2305.14160 (§3.1).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from promptstage.datamodules.encoding import IGNORED, Batch, Tokens
from promptstage.datamodules.label_words import LABEL_WORDS, LabelWordSplits
from promptstage.lightning_modules.backbone.anchor_hook import ReweightedAnchors
from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.label_words import classes_of
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import validated

ENTRY = "label_words"


class AnchorReweighting(SoftPromptModule):
    """Factors exp(β) on the attention to label words, for in-context learning; no prefix.

    In each layer and head, the attention of a prompt's last token q to the label token of a demonstration is
    multiplied by exp(β) of the demonstration's class, and not normalized again; no other row changes. The
    parameters β, one for each layer with attention, head and class, are initialized to 0. The loss is the
    cross-entropy of the gold label word's first token after q.

    Usage::

        promptstage fit --model AnchorReweighting --data Classification --data.task sst2 \\
            --data.demonstrations_per_class 1 --data.train_size_per_class 4

    Attributes:
        label_words: the label word of each class; None until the data are set up or a checkpoint is read.
        beta: (layers with attention, heads, classes) float32.
    """

    changes_attention: ClassVar[bool] = True

    def __init__(
        self,
        backbone: BackboneLike = BackboneConfig(),
        optimizer: OptimizerConfig = OptimizerConfig(lr=0.01),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model: its configuration, name or path, or a loaded one to share.
            optimizer: settings of AdamW, which is Adam without weight decay, and its schedule; the paper
                trains 10 epochs with batches of 1.
            val_generations: validation questions to predict at each validation; 0 for the loss alone.
        """
        super().__init__(backbone, optimizer, val_generations)
        self.label_words: tuple[str, ...] | None = None

    def set_label_words(self, words: tuple[str, ...]) -> None:
        """Set the label word of each class.

        Raises:
            UserError: if different label words are set already.
        """
        if self.label_words not in (None, words):
            assert self.label_words is not None
            raise UserError(
                f"label words must be {', '.join(self.label_words)}, for which β was trained, got "
                f"{', '.join(words)}"
            )
        self.label_words = words

    def setup(self, stage: str) -> None:
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, LabelWordSplits):
            self._check_data(data)
            self.set_label_words(data.class_words())
        super().setup(stage)

    def _check_data(self, data: LabelWordSplits) -> None:
        """
        Raises:
            UserError: if prompts have no demonstrations of each class, or answers are generated.
        """
        name = type(self).__name__
        if not data.demonstrations_per_class:
            raise UserError(
                f"{name} needs demonstrations of each class in the prompt: set "
                "--data.demonstrations_per_class, such as to 1"
            )
        if data.prediction != LABEL_WORDS:
            raise UserError(f"{name} needs prediction {LABEL_WORDS}, got {data.prediction}")

    def configure_prompts(self, generator: torch.Generator) -> None:
        if self.label_words is None:
            raise UserError(
                f"{type(self).__name__} takes its label words from the data at the start of fit: without it, "
                "load a checkpoint or call set_label_words"
            )
        self.backbone.check_attention(type(self).__name__, ())
        layers, heads = len(self.backbone.attention_layers), self.backbone.num_heads
        self.beta = nn.Parameter(torch.zeros(layers, heads, len(self.label_words)))

    def hooks_of(self, batch: Batch, tokens: Tokens) -> tuple[AttentionHook, ...]:
        beta = dict(zip(self.backbone.attention_layers, self.beta, strict=True))
        anchors = tokens.demonstrations[:, :, 2]
        return (
            ReweightedAnchors(beta, anchors, classes_of(batch).demonstrations, tokens.rationale[:, 0] - 1),
        )

    def trained_labels(self, batch: Batch) -> Tensor:
        """Return labels (B, n) of the first token of the gold label word alone."""
        labels, first = torch.full_like(batch.gold.labels, IGNORED), batch.gold.rationale[:, :1]
        return labels.scatter(1, first, batch.gold.labels.gather(1, first))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss if len(batch) else loss + self.beta.sum() * 0  # other ranks wait for a gradient

    def structure(self) -> dict[str, object]:
        return {"label words": ", ".join(self.label_words or ())}

    def stored_entries(self) -> dict[str, Any]:
        return {ENTRY: list(self.label_words or ())}

    def adopt(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the label words from a checkpoint.

        Raises:
            UserError: if the entry is damaged, or other label words are set.
        """
        words = validated(list[str], checkpoint.get(ENTRY), f"the checkpoint's entry '{ENTRY}'")
        self.set_label_words(tuple(words))

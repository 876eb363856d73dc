"""Distillation of a context into a soft prompt: the same backbone, with the text in context, is the teacher.

Self-distillation as for Cartridges: "Cartridges: Lightweight and general-purpose long context representations
via self-study", Eyuboglu et al., 2025, arXiv:2506.06266, §4.2; here on the rationales of the data set instead
of generated conversations.
"""

from typing import Any

import torch

from promptstage.datamodules.encoding import Batch
from promptstage.datamodules.token_ids import adds_bos
from promptstage.lightning_modules.backbone.context_states import (
    check_attention_alone,
    check_visible,
    record_context,
)
from promptstage.lightning_modules.backbone.distillation import label_divergences
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.evaluation_steps import EvaluationSteps
from promptstage.lightning_modules.objectives.base import Objective, StepLoss


class Distillation(Objective):
    """Divergence KL(teacher ‖ student) over the vocabulary at each token of the gold rationales, in nats.

    The teacher is the backbone with ``context`` before the question, whose keys and values are computed once;
    the student has the soft prompt instead.

    Args:
        context: the text, as it is written before the question.
    """

    def __init__(self, context: str) -> None:
        self.context = context
        self._teacher: Prefix | None = None

    def check(self, module: EvaluationSteps, data: Any) -> None:
        check_attention_alone(module.backbone)
        tokens = len(module.tokenizer(self.context)["input_ids"])
        check_visible(module.backbone, tokens + data.longest(), 0)

    def loss(self, module: EvaluationSteps, batch: Batch, prefix: Prefix | None) -> StepLoss:
        backbone, tokens, labels = module.backbone, batch.gold, module.trained_labels(batch)
        if self._teacher is None:
            self._teacher = self._context(module)
        own = 1 if adds_bos(backbone.tokenizer) and not getattr(module, "bos_first", False) else 0
        teacher = backbone.labeled(tokens.input_ids[:, own:], labels[:, own:], self._teacher)
        student = backbone.labeled(tokens.input_ids, labels, prefix)
        divergences = label_divergences(backbone, student, teacher)
        return StepLoss(divergences.sum(), len(divergences))

    @torch.no_grad()
    def _context(self, module: EvaluationSteps) -> Prefix:
        """Compute the keys and values of the context, with the BOS that the tokenizer puts before it."""
        ids = module.tokenizer(self.context)["input_ids"]
        tokens = torch.tensor([ids], device=module.backbone.embedding.device)
        return record_context(module.backbone, tokens, None).prefix_of()

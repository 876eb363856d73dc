"""Chunked Kullback-Leibler divergence between two predictions of a frozen output matrix."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from promptstage.lightning_modules.functional.cross_entropy import ROWS


class _HeadDivergence(torch.autograd.Function):
    """Divergence that computes the gradient of the student's hidden states in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        divergences = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            log_student = linear(hidden[rows], weight, bias).to(exact).log_softmax(-1)
            log_teacher = linear(teacher[rows], weight, bias).to(exact).log_softmax(-1)
            expected = log_teacher.exp()
            divergences[rows] = (expected * (log_teacher - log_student)).sum(-1)
            if gradient is not None:
                gradient[rows] = (log_student.exp() - expected).to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return divergences

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype)[:, None], None, None, None


def head_divergence(hidden: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute KL(p ‖ q) of each row, q = softmax(hidden · weightᵀ + bias), and p the same of ``teacher``.

    Memory is needed for ``ROWS`` rows of logits instead of all. Gradients flow to ``hidden`` only.

    Args:
        hidden: (N, d), of the student.
        teacher: (N, d).
        weight: (vocabulary, d), frozen.
        bias: (vocabulary,) or None, frozen.

    Returns:
        (N,) in nats, float32, or the dtype of ``hidden`` if it is wider.

    >>> head_divergence(torch.ones(1, 2), torch.ones(1, 2), torch.eye(2), None)
    tensor([0.])
    """
    return _HeadDivergence.apply(hidden, teacher, weight, bias)

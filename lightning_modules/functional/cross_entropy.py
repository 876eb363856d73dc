"""Chunked cross-entropy through a frozen output matrix."""

from typing import Any

import torch
from torch import Tensor

# Rows of logits in memory at a time: 128 MB in float32 for a vocabulary of 128k tokens.
ROWS = 256


class _HeadCrossEntropy(torch.autograd.Function):
    """Cross-entropy that computes the gradient of the hidden states in the forward pass.

    The matrix is frozen, so the gradient is one product of the probabilities with it.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            logits = torch.nn.functional.linear(hidden[rows], weight, bias).to(exact)
            labels = targets[rows, None]
            log_total = logits.logsumexp(-1, keepdim=True)
            losses[rows] = (log_total - logits.gather(1, labels))[:, 0]
            if gradient is not None:
                probabilities = logits.sub_(log_total).exp_()
                probabilities.scatter_add_(1, labels, torch.full_like(log_total, -1.0))
                gradient[rows] = probabilities.to(weight.dtype) @ weight
                del probabilities
            del logits  # before those of the next rows are allocated
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype)[:, None], None, None, None


def head_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Compute the cross-entropy of ``softmax(hidden · weightᵀ + bias)`` for each row, in nats.

    Equal to ``torch.nn.functional.cross_entropy(..., reduction="none")``, with memory for ``ROWS`` rows of
    logits instead of all. Gradients flow to ``hidden`` only.

    Args:
        hidden: (N, d).
        weight: (vocabulary, d), frozen.
        bias: (vocabulary,) or None, frozen.
        targets: (N,) int64.

    Returns:
        (N,), float32, or the dtype of ``hidden`` if it is wider.

    >>> head_cross_entropy(torch.zeros(1, 2), torch.ones(4, 2), None, torch.tensor([3])).exp()
    tensor([4.])
    """
    return _HeadCrossEntropy.apply(hidden, weight, bias, targets)

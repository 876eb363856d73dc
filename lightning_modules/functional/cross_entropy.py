"""Cross-entropy through a frozen output matrix, a few rows of logits at a time."""

from typing import Any

import torch
from torch import Tensor

# Rows of logits held at once: with a vocabulary of 128k tokens this is 128 MB in float32.
ROWS = 256


class _HeadCrossEntropy(torch.autograd.Function):
    """The gradient of the hidden states is formed in the forward pass, while the logits are there.

    The matrix is frozen, so one product with it is all a backward pass would do.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            logits = torch.nn.functional.linear(hidden[rows], weight, bias).to(exact)
            wanted = targets[rows, None]
            log_total = logits.logsumexp(-1, keepdim=True)
            losses[rows] = (log_total - logits.gather(1, wanted))[:, 0]
            if gradient is not None:
                probabilities = logits.sub_(log_total).exp_()
                probabilities.scatter_add_(1, wanted, torch.full_like(log_total, -1.0))
                gradient[rows] = probabilities.to(weight.dtype) @ weight
                del probabilities
            del logits  # or it would live beside the next rows'
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype)[:, None], None, None, None


def head_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Cross-entropy of ``softmax(hidden · weightᵀ + bias)`` for each row, in nats.

    Equal to ``torch.nn.functional.cross_entropy(..., reduction="none")`` with memory for a few rows of
    logits instead of all; gradients flow to ``hidden`` alone.

    Args:
        hidden: (N, d).
        weight: (vocabulary, d), frozen.
        bias: (vocabulary,) or ``None``, frozen.
        targets: (N,) int64.

    Returns:
        (N,), float32 or the dtype of ``hidden`` if that is wider.

    >>> head_cross_entropy(torch.zeros(1, 2), torch.ones(4, 2), None, torch.tensor([3])).exp()
    tensor([4.])
    """
    return _HeadCrossEntropy.apply(hidden, weight, bias, targets)

"""Sampling of tokens from logits by inverting the distribution function."""

import torch
from torch import Tensor


def sample_tokens(logits: Tensor, draws: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Sample a token for each row, given its random number.

    Args:
        logits: (B, V) float.
        draws: (B,) float, uniform in [0, 1).
        temperature: divisor of the logits, > 0.
        top_p: only the most likely tokens whose probabilities sum to at least ``top_p`` are chosen, at least
            one (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751).

    Returns:
        (B,) int64.

    >>> sample_tokens(torch.tensor([[0.0, 0.0]]), torch.tensor([0.6]))
    tensor([1])
    """
    probabilities = (logits.double() / temperature).softmax(-1)
    if top_p < 1:
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        ordered[:, 1:] = ordered[:, 1:].masked_fill(before[:, 1:] >= top_p, 0)
        probabilities = torch.zeros_like(ordered).scatter(-1, tokens, ordered)
    sums = probabilities.cumsum(-1)
    # The first token whose sum exceeds the draw, so that none of probability 0 is chosen.
    chosen = torch.searchsorted(sums, draws.double()[:, None] * sums[:, -1:], right=True)
    last = (probabilities > 0).cumsum(-1).argmax(-1, keepdim=True)  # rounding must not lead beyond it
    return torch.minimum(chosen, last)[:, 0]

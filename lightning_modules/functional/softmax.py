"""Softmax of attention scores, with capped scores and attention sinks.

    A[i, j] = exp(s[i, j]) / (exp(σ) + Σ_k exp(s[i, k])),   s[i, j] = c · tanh(q_i · k_j · scaling / c)

c is the cap of Gemma 2 ("Gemma 2: Improving Open Language Models at a Practical Size", Gemma Team, 2024,
arXiv:2408.00118), and σ the learned logit of a head's attention sink ("gpt-oss-120b & gpt-oss-20b Model
Card", OpenAI, 2025, arXiv:2508.10925). A sink has the value 0, so it is no column of A, whose rows then sum
to less than 1. Models without them have neither the cap nor the term exp(σ).
"""

import torch
from torch import Tensor


def attention_softmax(
    scores: Tensor, seen: Tensor, softcap: float | None = None, sink_logits: Tensor | None = None
) -> Tensor:
    """Compute attention weights (…, n, c) from scaled products of queries and keys.

    Rows that see no column are uniform without a sink, and 0 with one.

    Args:
        scores: (…, n, c) float.
        seen: bool, broadcastable to ``scores``, True where a row attends to a column.
        softcap: bound c of the scores; None: unbounded.
        sink_logits: σ, broadcastable to (…, 1, 1); None: no sinks.
    """
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    if sink_logits is None:
        return scores.softmax(-1)
    sink = sink_logits.to(scores.dtype).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]

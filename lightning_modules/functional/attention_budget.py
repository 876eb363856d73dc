"""Share of attention that a prefix takes, and the identity by which it scales all other attention.

With the inputs of a layer held fixed, a prefix cannot change the relative attention over the content:

    A^pt[i, j] = A[i, j] (1 − a_i),   a_i = Σ_s A^pt[i, s],
    t^pt_i = (1 − a_i) t_i + Σ_s A^pt[i, s] v_s

A is the attention over the content alone, A^pt that with the prefix, s its columns, v their values, and t the
head's output. "When do prompting and prefix-tuning work? A theory of capabilities and limitations", Petrov,
Torr and Bibi, ICLR 2024, arXiv:2310.19698, §4. The identity holds for every normalization by a sum over
columns: with capped scores, with windows, which hide the same content in both, and with an attention sink,
which is one more column of A.
"""

from typing import NamedTuple

from torch import Tensor

from promptstage.lightning_modules.functional.softmax import attention_softmax


class Budget(NamedTuple):
    """Attention of heads with and without a prefix of p columns, for n rows over c columns of content.

    Attributes:
        with_prefix: A^pt, (…, n, p + c).
        without: A, (…, n, c).
        share: a, (…, n).
        weight_error: max over j of |A^pt[i, j] − A[i, j] (1 − a_i)|, (…, n).
        output_error: max over coordinates of |t^pt_i − (1 − a_i) t_i − Σ_s A^pt[i, s] v_s|, (…, n).
    """

    with_prefix: Tensor
    without: Tensor
    share: Tensor
    weight_error: Tensor
    output_error: Tensor


def attention_budget(
    scores: Tensor,
    seen: Tensor,
    prefix: int,
    values: Tensor,
    output: Tensor,
    softcap: float | None = None,
    sink_logits: Tensor | None = None,
) -> Budget:
    """Compute the share of attention that a prefix takes, and the errors of the identity.

    Args:
        scores: (…, n, p + c), scaled products of queries and keys, the prefix's columns first.
        seen: bool, broadcastable to ``scores``, True where a row attends to a column.
        prefix: number of columns of the prefix (p).
        values: (…, p + c, width).
        output: (…, n, width), t^pt as the model computes it.
        softcap: bound of the scores; None: unbounded.
        sink_logits: broadcastable to (…, 1, 1), logit of each head's attention sink; None: no sinks.

    >>> import torch
    >>> scores, values = torch.zeros(1, 4), torch.arange(4.0)[:, None]
    >>> budget = attention_budget(scores, torch.ones(1, 4, dtype=bool), 1, values, torch.full((1, 1), 1.5))
    >>> budget.share.item(), round(budget.output_error.item(), 6)
    (0.25, 0.0)
    """
    with_prefix = attention_softmax(scores, seen, softcap, sink_logits)
    without = attention_softmax(scores[..., prefix:], seen[..., prefix:], softcap, sink_logits)
    taken, content = with_prefix[..., :prefix], with_prefix[..., prefix:]
    share = taken.sum(-1)
    left = 1 - share[..., None]
    values = values.to(with_prefix.dtype)
    expected = left * (without @ values[..., prefix:, :]) + taken @ values[..., :prefix, :]
    return Budget(
        with_prefix,
        without,
        share,
        (content - without * left).abs().amax(-1),
        (output.to(expected.dtype) - expected).abs().amax(-1),
    )

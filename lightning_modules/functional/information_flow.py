"""What the papers read off saliency: flows between prompt, question and rationale, and the shape of curves.

Everything follows from the sums of :class:`~promptstage.lightning_modules.functional.saliency.Flow`.
Spans are half-open columns (B, 2) of content tokens, as the batch has them; p is the number of a
layer's virtual tokens. Paper symbols: P, Q, R are prompt, question and rationale; r_h is the rationale's
middle token.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

ALPHA = 10.0
# Rows that s_i sums over: from the question's first token to the rationale's last (DPC eq. 7), or question
# and rationale without what stands between them, such as the template's "Answer:".
AccumulateOver = Literal["span", "question_and_rationale"]
ACCUMULATE_OVER = get_args(AccumulateOver)


def span_mask(span: Tensor, length: int) -> Tensor:
    """(B, n) bool, True on the columns of each span (B, 2)."""
    columns = torch.arange(length, device=span.device)
    return (columns >= span[:, :1]) & (columns < span[:, 1:])


def prompt_to_row(to_row: Tensor, virtual: int) -> Tensor:
    """S_pr(i) of every row i: mean over the prompt of S[i, ·] (DPC eq. 12-13).

    Args:
        to_row: (B, n), sums over the prompt.
        virtual: p, how many virtual tokens the sums are over; at least 1.
    """
    return to_row / virtual


def prompt_to_span(to_row: Tensor, virtual: int, span: Tensor) -> Tensor:
    """S_pq, S_pr: mean of S over (rows of a span × prompt) (DPC eq. 2-5); NaN for an empty span.

    Args:
        to_row: (B, n).
        virtual: p.
        span: (B, 2).

    Returns:
        (B,).
    """
    inside = span_mask(span, to_row.shape[1])
    return (to_row * inside).sum(1) / (inside.sum(1) * virtual)


def first_half(rationale: Tensor) -> Tensor:
    """The span (B, 2) from a rationale's first token up to its middle token r_h, which is not part of it."""
    start, end = rationale.unbind(1)
    return torch.stack([start, start + (end - start) // 2], dim=1)


def second_half(rationale: Tensor) -> Tensor:
    """The span (B, 2) from a rationale's middle token r_h to its end; of an odd number the longer half."""
    start, end = rationale.unbind(1)
    return torch.stack([start + (end - start) // 2, end], dim=1)


def late_flow(to_row: Tensor, virtual: int, rationale: Tensor) -> Tensor:
    """S_IFP of the last layer: the prompt's flow to the rationale's second half (DPC eq. 8-9), (B,)."""
    return prompt_to_span(to_row, virtual, second_half(rationale))


def span_means(from_column: Tensor, lengths: Tensor) -> Tensor:
    """S_pq, S_pr from what columns send: mean of S over (rows of a span × seen columns) (DPC eq. 2-5).

    Args:
        from_column: (…, T, p), sums over the rows of T spans; NaN for columns a layer does not see.
        lengths: (…, T), how many rows each span has.

    Returns:
        (…, T); NaN for an empty span, or without any column.
    """
    seen = (~from_column.isnan()).sum(-1)
    return from_column.nansum(-1) / (seen * lengths)


def shares_of_total(sums: Tensor) -> Tensor:
    """What part of all flow comes from each source.

    Args:
        sums: (…, U), sums of S over the sources; NaN for one that a layer does not see, which counts as 0.

    Returns:
        (…, U), summing to 1 without NaN; NaN where ``sums`` is, and where nothing flows at all.
    """
    return sums / sums.nansum(-1, keepdim=True)


def late_layers(layers: Sequence[int]) -> list[int]:
    """The last third of layers, at least one: the deep layers of DPC §2.2, of which it gives no numbers."""
    return list(layers[-max(len(layers) // 3, 1) :])


def accumulation_mask(
    question: Tensor, rationale: Tensor, length: int, over: AccumulateOver = "span"
) -> Tensor:
    """The rows that s_i sums over (DPC eq. 6-7), (B, n) bool.

    Args:
        question: (B, 2), first token and end.
        rationale: (B, 2), likewise.
        length: n.
        over: all rows q_s … r_e of eq. 7, or those of question and rationale only.
    """
    if over == "span":
        return span_mask(torch.stack([question[:, 0], rationale[:, 1]], dim=1), length)
    return span_mask(question, length) | span_mask(rationale, length)


def accumulates(from_token: Tensor, alpha: float = ALPHA) -> Tensor:
    """Which virtual tokens accumulate: s_i > α Σ_i s_i / (p_e − p_s) (DPC §2.2.1), (…, p) bool.

    The paper's p_s and p_e are first and last token, so the sum is divided by p − 1. A single virtual token
    has nothing to be compared with. With α = 10 there must be 12 of them for one to pass.

    Args:
        from_token: (…, p), s_i: what each virtual token sends to question and rationale (eq. 6-7); NaN for
            those a layer does not see, which never accumulate.
        alpha: 10 in the paper.
    """
    others = (~from_token.isnan()).sum(-1, keepdim=True) - 1
    threshold = alpha * from_token.nansum(-1, keepdim=True) / others
    return (from_token > threshold) & (others > 0)


def shallow_layers(seeing: Sequence[int]) -> list[int]:
    """Where accumulation is looked for (DPC §2.1: its peaks are at layers 2 to 10 of 32 to 40).

    Args:
        seeing: the layers that see the prompt, ascending.

    Returns:
        Their first third without the first of them; at least one, if there are any.
    """
    return list(seeing[1 : max(len(seeing) // 3, 2)] or seeing)


class Accumulation(NamedTuple):
    """The virtual token that accumulates most, and where."""

    layer: int
    token: int


def strongest_accumulation(
    from_token: Tensor, layers: Sequence[int], among: Sequence[int], alpha: float = ALPHA
) -> Accumulation | None:
    """Of the tokens that accumulate in some layers, the one with the greatest s_i; None without any.

    Args:
        from_token: (K, p), s_i of each layer, NaN where it is not seen.
        layers: the K layers.
        among: the layers that count.
    """
    found = accumulates(from_token, alpha)
    found &= torch.tensor([layer in among for layer in layers])[:, None]
    if not found.any():
        return None
    layer, token = divmod(int((from_token.nan_to_num() * found).argmax()), from_token.shape[1])
    return Accumulation(layers[layer], token)


class Conditional(NamedTuple):
    """P(change | accumulation) and P(change | none), with what was counted (DPC Fig. 4a)."""

    with_accumulation: float
    without: float
    accumulated: int
    examples: int


def change_given_accumulation(changed: ArrayLike, accumulated: ArrayLike) -> Conditional:
    """How often the late flow changes with and without accumulation; NaN where there is no such example.

    Args:
        changed: (n,) bool, S_IFP above its threshold.
        accumulated: (n,) bool.
    """
    change, accumulation = np.asarray(changed, dtype=bool), np.asarray(accumulated, dtype=bool)

    def share(examples: np.ndarray) -> float:
        return float(change[examples].mean()) if examples.any() else float("nan")

    count = int(accumulation.sum())
    return Conditional(share(accumulation), share(~accumulation), count, len(accumulation))


class CurveShape(NamedTuple):
    """Numbers for DHAM's 'stable information flow': smooth and with one peak.

    Attributes:
        peaks: local maxima, ends included.
        reversals: changes between rising and falling.
        variation: total variation over range: 1 for a monotone curve, 2 for one peak in between at most.
        peak_layer: index of the maximum.
    """

    peaks: int
    reversals: int
    variation: float
    peak_layer: int


def curve_shape(curve: ArrayLike) -> CurveShape:
    """Shape of a curve over layers (L,); plateaus count once, a constant curve has no peak.

    Raises:
        ValueError: when it is empty or not finite.
    """
    from scipy.signal import find_peaks

    values = np.asarray(curve, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("a curve needs one finite value for each layer")
    steps = np.diff(values)
    signs = np.sign(steps[steps != 0])
    spread = np.ptp(values)
    if not len(signs):
        return CurveShape(0, 0, 0.0, 0)
    # The least value at both sides makes a maximum at an end a peak like any other.
    peaks, _ = find_peaks(np.concatenate([[values.min() - 1], values, [values.min() - 1]]))
    return CurveShape(
        len(peaks),
        int((signs[1:] != signs[:-1]).sum()),
        float(np.abs(steps).sum() / spread),
        int(values.argmax()),
    )

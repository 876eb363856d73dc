"""Measures of information flow: between prompt, question and rationale, accumulation, shape of curves.

All measures are computed from the sums in :class:`~promptstage.lightning_modules.functional.saliency.Flow`.
Spans are half-open ranges (B, 2) of content tokens; p is the number of a layer's virtual tokens. Paper
symbols: P, Q and R are prompt, question and rationale; r_h is the middle token of the rationale.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

ALPHA = 10.0
# Rows that s_i sums over: from the question's first token to the rationale's last (DPC eq. 7), or question
# and rationale without the tokens between them, such as the template's "Answer:".
AccumulateOver = Literal["span", "question_and_rationale"]
ACCUMULATE_OVER = get_args(AccumulateOver)


def span_mask(span: Tensor, length: int) -> Tensor:
    """Return a mask (B, n) bool, True on the columns of each span (B, 2)."""
    columns = torch.arange(length, device=span.device)
    return (columns >= span[:, :1]) & (columns < span[:, 1:])


def prompt_to_row(to_row: Tensor, virtual: int) -> Tensor:
    """Compute S_pr(i) of every row i: mean of S[i, ·] over the prompt (DPC eq. 12-13).

    Args:
        to_row: (B, n), sums over the prompt.
        virtual: p >= 1, number of virtual tokens in the sums.
    """
    return to_row / virtual


def prompt_to_span(to_row: Tensor, virtual: int, span: Tensor) -> Tensor:
    """Compute S_pq or S_pr: mean of S over (rows of a span × prompt) (DPC eq. 2-5); NaN for an empty span.

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
    """Return the span (B, 2) from the rationale's first token to its middle token r_h, exclusive."""
    start, end = rationale.unbind(1)
    return torch.stack([start, start + (end - start) // 2], dim=1)


def second_half(rationale: Tensor) -> Tensor:
    """Return the span (B, 2) from the rationale's middle token r_h to its end; never the shorter half."""
    start, end = rationale.unbind(1)
    return torch.stack([start + (end - start) // 2, end], dim=1)


def late_flow(to_row: Tensor, virtual: int, rationale: Tensor) -> Tensor:
    """Compute S_IFP (B,): flow from the prompt to the rationale's second half (DPC eq. 8-9)."""
    return prompt_to_span(to_row, virtual, second_half(rationale))


def span_means(from_column: Tensor, lengths: Tensor) -> Tensor:
    """Compute S_pq and S_pr from sums over rows: mean of S over (span × visible columns) (DPC eq. 2-5).

    Args:
        from_column: (…, T, p), sums over the rows of T spans; NaN for columns that a layer does not see.
        lengths: (…, T), number of rows in each span.

    Returns:
        (…, T); NaN for an empty span, or without any column.
    """
    seen = (~from_column.isnan()).sum(-1)
    return from_column.nansum(-1) / (seen * lengths)


def shares_of_total(sums: Tensor) -> Tensor:
    """Compute the share of each source in the total flow.

    Args:
        sums: (…, U), sums of S over the sources; NaN, which counts as 0, for one that a layer does not see.

    Returns:
        (…, U), summing to 1 without NaN; NaN where ``sums`` is NaN, and everywhere if the total is 0.
    """
    return sums / sums.nansum(-1, keepdim=True)


def late_layers(layers: Sequence[int]) -> list[int]:
    """Return the last third of layers, at least one: the deep layers of DPC §2.2, which gives no numbers."""
    return list(layers[-max(len(layers) // 3, 1) :])


def accumulation_mask(
    question: Tensor, rationale: Tensor, length: int, over: AccumulateOver = "span"
) -> Tensor:
    """Return the rows that s_i sums over (DPC eq. 6-7), (B, n) bool.

    Args:
        question: (B, 2), first token and end.
        rationale: (B, 2), first token and end.
        length: n.
        over: all rows q_s … r_e of eq. 7, or those of question and rationale only.
    """
    if over == "span":
        return span_mask(torch.stack([question[:, 0], rationale[:, 1]], dim=1), length)
    return span_mask(question, length) | span_mask(rationale, length)


def accumulates(from_token: Tensor, alpha: float = ALPHA) -> Tensor:
    """Return which virtual tokens accumulate flow, s_i > α Σ_i s_i / (p_e − p_s) (DPC §2.2.1), (…, p) bool.

    In the paper p_s and p_e are first and last token, so the sum is divided by p − 1. A single virtual token
    never accumulates. With α = 10 it takes at least 12 virtual tokens for one to pass.

    Args:
        from_token: (…, p), s_i: flow from each virtual token to question and rationale (eq. 6-7); NaN for
            those that a layer does not see, which never accumulate.
        alpha: α, 10 in the paper.
    """
    others = (~from_token.isnan()).sum(-1, keepdim=True) - 1
    threshold = alpha * from_token.nansum(-1, keepdim=True) / others
    return (from_token > threshold) & (others > 0)


def shallow_layers(seeing: Sequence[int]) -> list[int]:
    """Return the shallow layers, where accumulation occurs (DPC §2.1: peaks at layers 2 to 10 of 32 to 40).

    Args:
        seeing: layers that see the prompt, ascending.

    Returns:
        The first third of these layers without the first one; at least one if ``seeing`` is not empty.
    """
    return list(seeing[1 : max(len(seeing) // 3, 2)] or seeing)


class Accumulation(NamedTuple):
    """Virtual token that accumulates most flow, and its layer."""

    layer: int
    token: int


def strongest_accumulation(
    from_token: Tensor, layers: Sequence[int], among: Sequence[int], alpha: float = ALPHA
) -> Accumulation | None:
    """Return the accumulating token with the greatest s_i in some layers; None if no token accumulates.

    Args:
        from_token: (K, p), s_i in each layer; NaN for tokens that a layer does not see.
        layers: the K layers.
        among: the layers to search.
        alpha: see :func:`accumulates`.
    """
    mask = accumulates(from_token, alpha)
    mask &= torch.tensor([layer in among for layer in layers])[:, None]
    if not mask.any():
        return None
    layer, token = divmod(int((from_token.nan_to_num() * mask).argmax()), from_token.shape[1])
    return Accumulation(layers[layer], token)


class Conditional(NamedTuple):
    """P(change | accumulation) and P(change | no accumulation), with the counts (DPC Fig. 4a)."""

    with_accumulation: float
    without: float
    accumulated: int
    examples: int


def change_given_accumulation(changed: ArrayLike, accumulated: ArrayLike) -> Conditional:
    """Compute how often the late flow changes with and without accumulation; NaN if there is no such example.

    Args:
        changed: (n,) bool, whether S_IFP is above its threshold.
        accumulated: (n,) bool, whether a token accumulates flow.
    """
    change, accumulation = np.asarray(changed, dtype=bool), np.asarray(accumulated, dtype=bool)

    def share(examples: np.ndarray) -> float:
        return float(change[examples].mean()) if examples.any() else float("nan")

    count = int(accumulation.sum())
    return Conditional(share(accumulation), share(~accumulation), count, len(accumulation))


class CurveShape(NamedTuple):
    """Measures of DHAM's 'stable information flow', a smooth curve with one peak.

    Attributes:
        peaks: number of local maxima, ends included.
        reversals: number of changes between rising and falling.
        variation: total variation divided by the range: 1 for a monotone curve, at most 2 for one peak.
        peak_layer: index of the maximum.
    """

    peaks: int
    reversals: int
    variation: float
    peak_layer: int


def curve_shape(curve: ArrayLike) -> CurveShape:
    """Measure the shape of a curve over layers (L,); plateaus count once, a constant curve has no peak.

    Raises:
        ValueError: if it is empty or not finite.
    """
    from scipy.signal import find_peaks

    values = np.asarray(curve, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("a curve must have one finite value for each layer")
    steps = np.diff(values)
    signs = np.sign(steps[steps != 0])
    if not len(signs):
        return CurveShape(0, 0, 0.0, 0)
    # Padded with a lower value on both sides, so that a maximum at an end is a peak, too.
    peaks, _ = find_peaks(np.concatenate([[values.min() - 1], values, [values.min() - 1]]))
    return CurveShape(
        len(peaks),
        int((signs[1:] != signs[:-1]).sum()),
        float(np.abs(steps).sum() / np.ptp(values)),
        int(values.argmax()),
    )

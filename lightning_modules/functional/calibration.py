"""Attention calibration: less weight on attention sinks, more on everything else (ACT, Yu et al. 2024).

    score_j = Σ_i A[i, j] / (rows i that see j)

A column whose score is above a threshold is detected. The first one detected is left alone, the others are
sinks: their weights are multiplied by β, and what a row's sinks lose goes to its other columns in proportion
to their weights.

Rows are content tokens; columns are a layer's prefix, then its content. Rows and columns of padding count for
nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class ColumnSums:
    """What columns got from the rows so far, for B examples, H heads and c columns.

    Attributes:
        sums: (B, H, c) float, of the weights.
        counts: (B, c) int64, rows that see the column.
    """

    sums: Tensor
    counts: Tensor

    def followed_by(self, more: "ColumnSums") -> "ColumnSums":
        """With the sums of later rows, which may have more columns on the right."""
        new = more.counts.shape[1] - self.counts.shape[1]
        return ColumnSums(pad(self.sums, (0, new)) + more.sums, pad(self.counts, (0, new)) + more.counts)

    def select(self, rows: Tensor) -> "ColumnSums":
        """Those of some examples."""
        return ColumnSums(self.sums[rows], self.counts[rows])

    def scores(self) -> Tensor:
        """(B, H, c), the mean weight over the rows that see a column; 0 for one that no row sees."""
        return self.sums / self.counts.clamp(min=1)[:, None]


def column_sums(weights: Tensor, seen: Tensor) -> ColumnSums:
    """Sums of attention weights over rows.

    Args:
        weights: (B, H, n, c) float, before calibration.
        seen: (B, n, c) bool, which columns each row sees; nothing in a row of padding.
    """
    return ColumnSums(weights.masked_fill(~seen[:, None], 0).sum(2), seen.sum(1))


def find_sinks(scores: Tensor, threshold: float, prefix: int = 0, soft_tokens: bool = True) -> Tensor:
    """Which columns are sinks, (B, H, c) bool.

    Position 0 never is one: it is the leftmost column, so where it is detected it is the first.

    Args:
        scores: (B, H, c), as :meth:`ColumnSums.scores`.
        threshold: a column is detected above it.
        prefix: columns before the content.
        soft_tokens: these may be sinks; if not, one of them may still be the first detected.
    """
    detected = scores > threshold
    found = detected & (detected.cumsum(-1) > 1)
    if not soft_tokens:
        found[..., :prefix] = False
    return found


def calibrate(weights: Tensor, sinks: Tensor, beta: float) -> Tensor:
    """Weights with those of sinks multiplied by ``beta``, (B, H, n, c); rows sum to what they did.

    A row that sees nothing but sinks stays as it is.

    Args:
        weights: (B, H, n, c) float.
        sinks: (B, H, c) bool, the same for all rows.
        beta: 0 to 1; 1 changes nothing.
    """
    sinks = sinks[:, :, None]
    others = weights.masked_fill(sinks, 0)
    total = others.sum(-1, keepdim=True)
    freed = (1 - beta) * (weights - others).sum(-1, keepdim=True)
    # A share first, then its part: a total near 0 must not overflow.
    shares = others / total.masked_fill(total == 0, 1)
    changed = torch.where(sinks, beta * weights, weights + shares * freed)
    return torch.where(total > 0, changed, weights)

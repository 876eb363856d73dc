"""Attention calibration (ACT): shift weight from attention sinks to all other columns.

Yu et al., "Unveiling and harnessing hidden attention sinks: enhancing large language models without training
through attention calibration", ICML 2024 (arXiv:2406.15765).

    score_j = Σ_i A[i, j] / (number of rows i that see j)

Columns with a score above a threshold are detected. The first detected column is unchanged; the others are
sinks: their weights are multiplied by β, and the weight that a row's sinks lose is distributed over its other
columns in proportion to their weights.

Rows are content tokens; columns are the layer's prefix, followed by its content. Rows and columns of padding
are ignored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class ColumnSums:
    """Attention that columns received from the rows so far, for B examples, H heads and c columns.

    Attributes:
        sums: (B, H, c) float, sums of weights over rows.
        counts: (B, c) int64, number of rows that see the column.
    """

    sums: Tensor
    counts: Tensor

    def followed_by(self, more: "ColumnSums") -> "ColumnSums":
        """Return the sums including those of later rows, which may have more columns on the right."""
        new = more.counts.shape[1] - self.counts.shape[1]
        return ColumnSums(pad(self.sums, (0, new)) + more.sums, pad(self.counts, (0, new)) + more.counts)

    def select(self, rows: Tensor) -> "ColumnSums":
        """Return the sums of the examples with indices ``rows``."""
        return ColumnSums(self.sums[rows], self.counts[rows])

    def scores(self) -> Tensor:
        """Return the mean weight over the rows that see each column (B, H, c); 0 if no row sees it."""
        return self.sums / self.counts.clamp(min=1)[:, None]


def column_sums(weights: Tensor, seen: Tensor) -> ColumnSums:
    """Sum attention weights over rows.

    Args:
        weights: (B, H, n, c) float, before attention calibration.
        seen: (B, n, c) bool, True for the columns that a row sees; all False in a row of padding.
    """
    return ColumnSums(weights.masked_fill(~seen[:, None], 0).sum(2), seen.sum(1))


def find_sinks(scores: Tensor, threshold: float, prefix: int = 0, soft_tokens: bool = True) -> Tensor:
    """Find the columns that are attention sinks.

    Column 0 is never a sink: if it is detected, it is the first detected column.

    Args:
        scores: (B, H, c), from :meth:`ColumnSums.scores`.
        threshold: columns with a greater score are detected.
        prefix: number of columns before the content.
        soft_tokens: prefix columns may be sinks; if False, one can still be the first detected column.

    Returns:
        (B, H, c) bool, True for sinks.
    """
    detected = scores > threshold
    sinks = detected & (detected.cumsum(-1) > 1)
    if not soft_tokens:
        sinks[..., :prefix] = False
    return sinks


def calibrate_attention(weights: Tensor, sinks: Tensor, beta: float) -> Tensor:
    """Multiply the weights of sinks by ``beta``, and distribute the difference over a row's other columns.

    Sums of rows are preserved. A row that sees only sinks is unchanged.

    Args:
        weights: (B, H, n, c) float.
        sinks: (B, H, c) bool, the same for all rows.
        beta: factor in [0, 1]; 1 changes nothing.

    Returns:
        (B, H, n, c).
    """
    sinks = sinks[:, :, None]
    others = weights.masked_fill(sinks, 0)
    total = others.sum(-1, keepdim=True)
    freed = (1 - beta) * (weights - others).sum(-1, keepdim=True)
    # Divide before multiplying: a total near 0 must not overflow.
    shares = others / total.masked_fill(total == 0, 1)
    changed = torch.where(sinks, beta * weights, weights + shares * freed)
    return torch.where(total > 0, changed, weights)

"""Attention calibration during generation (ACT, Yu et al., 2024)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from promptstage.lightning_modules.functional.calibration import (
    ColumnSums,
    calibrate,
    column_sums,
    find_sinks,
)

# Attention weights computed at a time, in elements: 64 MB in float32.
MAX_WEIGHTS = 1 << 24


@dataclass(frozen=True)
class Calibration:
    """Settings of attention calibration.

    Attributes:
        heads: indices of the calibrated heads, by layer.
        threshold: a column with a higher score is an attention sink.
        beta: factor of a sink's weights.
        soft_tokens: columns of the prefix may be sinks.
    """

    heads: Mapping[int, Sequence[int]]
    threshold: float = 0.1
    beta: float = 0.4
    soft_tokens: bool = True


@dataclass(frozen=True)
class Attended:
    """One layer's attention in a forward pass, the prefix's columns first.

    Attributes:
        query: (B, H, n, head dim).
        key, value: (B, K, p + c, head dim).
        seen: (B or 1, 1, n, p + c) bool; a row of content attends to itself, a row of padding does not.
        scaling: factor of the products of queries and keys.
        prefix: number of columns of the prefix (p).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    seen: Tensor
    scaling: float
    prefix: int

    @cached_property
    def counted(self) -> Tensor:
        """Mask (B, n, p + c) without the rows of padding; the rows are the last n columns."""
        seen = self.seen[:, 0].expand(self.query.shape[0], -1, -1)
        rows = seen.shape[1]
        return seen & seen[..., -rows:].diagonal(dim1=1, dim2=2)[..., None]

    def weights(self, heads: Tensor) -> Tensor:
        """Compute attention weights (B, heads, n, p + c), float32 or better; uniform in fully masked rows."""
        query, key = self.query[:, heads], self.key[:, self._shared(heads)]
        dtype = torch.promote_types(query.dtype, torch.float32)
        scores = (query.to(dtype) * self.scaling) @ key.to(dtype).mT
        return scores.masked_fill(~self.seen, torch.finfo(dtype).min).softmax(-1)

    def output(self, weights: Tensor, heads: Tensor) -> Tensor:
        """Compute the output (B, heads, n, head dim) of the heads for attention weights."""
        return weights @ self.value[:, self._shared(heads)].to(weights.dtype)

    def _shared(self, heads: Tensor) -> Tensor:
        """Return the key-value heads of query heads."""
        return heads // (self.query.shape[1] // self.key.shape[1])


class CalibratedHeads:
    """State of attention calibration for one batch, from its prompts to its last generated token.

    All rows of a prompt share the sinks of the whole prompt. The sinks of a generated token's row follow from
    the column sums up to and including that row; earlier rows are not recomputed. A pass over prompt and
    generated tokens by this rule, row by row, equals decoding with a cache.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.settings = calibration
        # By layer: groups of heads that are calibrated together, and their column sums so far.
        self._groups: dict[int, tuple[Tensor, ...]] = {}
        self._sums: dict[int, list[ColumnSums]] = {}

    def select(self, rows: Tensor) -> None:
        """Keep some rows of the batch."""
        for layer, groups in self._sums.items():
            self._sums[layer] = [sums.select(rows) for sums in groups]

    def correct(self, layer: int, output: Tensor, attended: Attended) -> Tensor:
        """Replace the output of the calibrated heads in ``output`` (B, H, n, head dim) of ``layer``."""
        own = self.settings
        if layer not in self._groups:
            heads = torch.tensor(own.heads[layer], device=output.device)
            size = output.shape[0] * output.shape[2] * attended.key.shape[2]
            self._groups[layer] = heads.split(max(1, MAX_WEIGHTS // size))
        before = self._sums.get(layer)
        after = []
        with torch.autocast(output.device.type, enabled=False):
            for number, heads in enumerate(self._groups[layer]):
                weights = attended.weights(heads)
                sums = column_sums(weights, attended.counted)
                after.append(sums if before is None else before[number].followed_by(sums))
                sinks = find_sinks(after[-1].scores(), own.threshold, attended.prefix, own.soft_tokens)
                corrected = attended.output(calibrate(weights, sinks, own.beta), heads)
                output = output.index_copy(1, heads, corrected.to(output.dtype))
        self._sums[layer] = after
        return output

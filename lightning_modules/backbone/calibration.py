"""Calibrated attention heads while text is generated (ACT, Yu et al. 2024)."""

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

# Weights made at a time, in elements: 64 MB in float32.
MOST = 1 << 24


@dataclass(frozen=True)
class Calibration:
    """Which heads are calibrated, and how.

    Attributes:
        heads: heads by layer.
        threshold: a column with a higher score is detected.
        beta: what a sink's weights are multiplied by.
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
        seen: (B or 1, 1, n, p + c) bool; a row of content sees itself, a row of padding does not.
        scaling: factor of the products of queries and keys.
        prefix: p.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    seen: Tensor
    scaling: float
    prefix: int

    @cached_property
    def counted(self) -> Tensor:
        """(B, n, p + c) bool, ``seen`` without what padding sees: the rows are the last n columns."""
        seen = self.seen[:, 0].expand(self.query.shape[0], -1, -1)
        rows = seen.shape[1]
        return seen & seen[..., -rows:].diagonal(dim1=1, dim2=2)[..., None]

    def weights(self, heads: Tensor) -> Tensor:
        """Attention weights (B, heads, n, p + c), float32 or better; uniform where nothing is seen."""
        query, key = self.query[:, heads], self.key[:, self._shared(heads)]
        dtype = torch.promote_types(query.dtype, torch.float32)
        scores = (query.to(dtype) * self.scaling) @ key.to(dtype).mT
        return scores.masked_fill(~self.seen, torch.finfo(dtype).min).softmax(-1)

    def output(self, weights: Tensor, heads: Tensor) -> Tensor:
        """What the heads give with such weights, (B, heads, n, head dim)."""
        return weights @ self.value[:, self._shared(heads)].to(weights.dtype)

    def _shared(self, heads: Tensor) -> Tensor:
        """Key-value heads of query heads."""
        return heads // (self.query.shape[1] // self.key.shape[1])


class CalibratedHeads:
    """Calibrates one batch from its prompts to its last token.

    All rows of a prompt have the sinks that follow from the whole prompt. A generated token's row has those
    that follow from the sums up to and including that row; earlier rows are not looked at again. A pass over
    prompt and generated tokens by this rule, row by row, gives the same as decoding with a cache.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.settings = calibration
        # Of each layer: heads that are calibrated at a time, and what their columns got so far.
        self._groups: dict[int, tuple[Tensor, ...]] = {}
        self._sums: dict[int, list[ColumnSums]] = {}

    def select(self, rows: Tensor) -> None:
        """Keep some rows of the batch."""
        for layer, groups in self._sums.items():
            self._sums[layer] = [sums.select(rows) for sums in groups]

    def correct(self, layer: int, output: Tensor, attended: Attended) -> Tensor:
        """``output`` (B, H, n, head dim) of ``layer`` with that of its calibrated heads in its place."""
        own = self.settings
        if layer not in self._groups:
            heads = torch.tensor(own.heads[layer], device=output.device)
            size = output.shape[0] * output.shape[2] * attended.key.shape[2]
            self._groups[layer] = heads.split(max(1, MOST // size))
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

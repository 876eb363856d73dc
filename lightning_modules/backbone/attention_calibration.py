"""Attention calibration during generation (ACT, Yu et al., 2024)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention
from promptstage.lightning_modules.functional.attention_calibration import (
    ColumnSums,
    calibrate_attention,
    column_sums,
    find_sinks,
)

# Attention weights computed at a time, in elements: 64 MB in float32.
MAX_WEIGHTS = 1 << 24


@dataclass(frozen=True)
class AttentionCalibration:
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


class CalibratedHeads(AttentionHook):
    """State of attention calibration for one batch, from its prompts to its last generated token.

    All rows of a prompt share the sinks of the whole prompt. The sinks of a generated token's row follow from
    the column sums up to and including that row; earlier rows are not recomputed. A pass over prompt and
    generated tokens by this rule, row by row, equals decoding with a cache.
    """

    changes_weights = True

    def __init__(self, settings: AttentionCalibration) -> None:
        self.settings = settings
        self.layers = settings.heads.keys()
        self.begin()

    def begin(self) -> None:
        # By layer: groups of heads that are calibrated together, and their column sums so far.
        self._groups: dict[int, tuple[Tensor, ...]] = {}
        self._sums: dict[int, list[ColumnSums]] = {}

    def select(self, rows: Tensor) -> None:
        for layer, groups in self._sums.items():
            self._sums[layer] = [sums.select(rows) for sums in groups]

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        own = self.settings
        if layer not in self._groups:
            heads = torch.tensor(own.heads[layer], device=output.device)
            size = output.shape[0] * output.shape[2] * attention.key.shape[2]
            self._groups[layer] = heads.split(max(1, MAX_WEIGHTS // size))
        before = self._sums.get(layer)
        after = []
        with torch.autocast(output.device.type, enabled=False):
            for number, heads in enumerate(self._groups[layer]):
                weights = attention.weights(heads)
                sums = column_sums(weights, attention.counted)
                after.append(sums if before is None else before[number].followed_by(sums))
                sinks = find_sinks(after[-1].scores(), own.threshold, attention.prefix, own.soft_tokens)
                calibrated = attention.output(calibrate_attention(weights, sinks, own.beta), heads)
                output = output.index_copy(1, heads, calibrated.to(output.dtype))
        self._sums[layer] = after
        return output

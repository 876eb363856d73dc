"""Attention of the last token of a prompt on label words, with its queries and their keys."""

from collections.abc import Collection

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention


class LabelAttention(AttentionHook):
    """Recorder of the attention of one row of each example on some columns.

    Args:
        layers: layers to record.
        rows: (B,) int64, the row of each example, in the padded form of the batch.
        columns: (B, k) int64, columns of the content; -1 where an example has fewer.

    Attributes:
        weights: by layer, (B, k) attention weights summed over heads, float32 or wider; 0 for column -1.
        queries: by layer, (B, H · head dim), positions applied, of all heads.
        keys: by layer, (B, k, H · head dim), positions applied, repeated for the query heads that share them.
    """

    def __init__(self, layers: Collection[int], rows: Tensor, columns: Tensor) -> None:
        self.layers, self.rows, self.columns = layers, rows, columns
        self.weights: dict[int, Tensor] = {}
        self.queries: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            row = attention.at(self.rows[:, None])
            index = attention.prefix + self.columns.clamp(min=0)
            weights = row.weights()[:, :, 0].sum(1).gather(1, index)
            heads, (groups, width) = row.query.shape[1], (attention.key.shape[1], attention.key.shape[3])
            keys = attention.key.gather(2, index[:, None, :, None].expand(-1, groups, -1, width))
            keys = keys.repeat_interleave(heads // groups, dim=1)
        self.weights[layer] = weights * (self.columns >= 0)
        self.queries[layer] = row.query[:, :, 0].flatten(1).detach()
        self.keys[layer] = keys.transpose(1, 2).flatten(2).detach()
        return output

"""Attention hook of anchor re-weighting (Wang et al., 2023, arXiv:2305.14160, §3.1)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention
from promptstage.lightning_modules.functional.anchor_reweighting import reweighting_change


class ReweightedAnchors(AttentionHook):
    """Attention of one row of each example to its label tokens, multiplied by exp(β), with gradient to β.

    For passes over whole texts that are padded on the right, not for steps of a generation.
    """

    changes_weights = True

    def __init__(self, beta: Mapping[int, Tensor], anchors: Tensor, classes: Tensor, row: Tensor) -> None:
        """
        Args:
            beta: (H, C) by layer.
            anchors: (B, k) int64, column of each demonstration's label token among the content.
            classes: (B, k) int64, class of each demonstration; -1 if it is lacking.
            row: (B,) int64, the row q that is changed.
        """
        self.layers = beta.keys()
        self.beta, self.anchors, self.classes, self.row = beta, anchors, classes, row

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        with torch.autocast(output.device.type, enabled=False):
            own = attention.at(self.row[:, None])
            weights = own.weights()[:, :, 0]  # (B, H, p + c)
            columns = self.anchors[:, None].expand(-1, weights.shape[1], -1) + attention.prefix
            values = own.values_of(columns[:, 0])
            change = reweighting_change(
                weights.gather(2, columns), values.to(weights.dtype), self.beta[layer], self.classes
            )
        place = self.row[:, None, None, None].expand(-1, output.shape[1], 1, output.shape[3])
        return output.scatter_add(2, place, change.to(output.dtype)[:, :, None])

"""Isolation of tokens: they attend to nothing before them in some layers.

"Label words are anchors: an information flow perspective for understanding in-context learning", Wang et al.,
EMNLP 2023, arXiv:2305.14160, §2.2.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention


class Isolation(AttentionHook):
    """Rows that attend to their own column alone, and to the prefix.

    A soft prompt in the prefix stays visible: isolation hides what the text before a token says, not what the
    model was trained to do. Their outputs are computed again for these columns, so that weights sum to 1.

    Args:
        layers: layers in which the rows are isolated.
        rows: (B, R) int64, columns of the content, in the padded form of the batch; -1 where an example has
            fewer. Rows of earlier passes, whose keys and values are cached, stay as they are.
    """

    changes_weights = True

    def __init__(self, layers: Collection[int], rows: Tensor) -> None:
        self.layers, self.rows = layers, rows

    def select(self, rows: Tensor) -> None:
        self.rows = self.rows[rows]

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        heads, length, columns = *attention.query.shape[1:3], attention.key.shape[2]
        index = self.rows - (columns - attention.prefix - length)
        present = (self.rows >= 0) & (index >= 0) & (index < length)
        examples, chosen = present.nonzero(as_tuple=True)
        if not len(examples):
            return output
        place = torch.arange(columns, device=output.device)
        allowed = (place < attention.prefix) | (place == attention.prefix + self.rows[..., None])
        with torch.autocast(output.device.type, enabled=False):
            isolated = attention.at(index.clamp(0, length - 1), allowed)
            rows = isolated.output(isolated.weights()).to(output.dtype)
        where = (examples[:, None], torch.arange(heads, device=output.device), index[examples, chosen, None])
        return output.index_put(where, rows[examples, :, chosen])

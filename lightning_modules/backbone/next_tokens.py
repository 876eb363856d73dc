"""Logits of the token after each sequence of a batch, from one forward pass without a cache."""

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.hooks import input_hooks
from promptstage.lightning_modules.backbone.prefix import Prefix


def next_token_logits(
    backbone: FrozenModel, input_ids: Tensor, lengths: Tensor, prefix: Prefix | None = None
) -> Tensor:
    """Compute the logits (B, vocabulary) of the token after each sequence, float32 or better.

    Padding is removed before the model runs; attention hooks see the batch padded on the right.

    Args:
        input_ids: (B, n), padded on the right, if at all.
        lengths: (B,), number of tokens of each sequence, at least 1.
        prefix: prefix that all tokens attend to.
    """
    arguments, _ = backbone.packed(input_ids, lengths, prefix)
    last = lengths.cumsum(0) - 1
    with input_hooks([(backbone.model.get_output_embeddings(), lambda states: states[:, last])]):
        logits: Tensor = backbone.model(**arguments).logits[0]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

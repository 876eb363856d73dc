"""Attention rollout: contribution of each source to a token through the attention of all layers.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020 (arXiv:2005.00928): with Ã = ½ A + ½
I for the residual stream and A the mean over heads, the rollout of layer ℓ is Ã_ℓ Ã_{ℓ−1} … Ã_0. The
contribution of groups of tokens is this product times the groups' indicator columns. It is computed from
right to left with one column per group, without n × n products.
"""

import torch
from torch import Tensor

from promptstage.lightning_modules.functional.saliency import BLOCK, AttentionTerms, attention_weights

RESIDUAL = 0.5  # the identity's weight in Ã


def rollout(terms: AttentionTerms, shares: Tensor, prefix_sources: Tensor, block: int = BLOCK) -> Tensor:
    """Propagate the shares of sources through one layer.

    Virtual tokens never attend to the content, so they are sources in every layer.

    Args:
        terms: attention of the layer, for B examples of n content tokens and p prefix columns.
        shares: (B, n, U), shares of U sources in each token before this layer; before layer 0 the indicator
            of the token's source.
        prefix_sources: (p, U), indicator of the source of each prefix column.

    Returns:
        (B, n, U), shares after this layer; rows of padding are unchanged.
    """
    mixed = shares.clone()
    for rows, weights in attention_weights(terms, block=block):
        weights = weights.to(shares.dtype)
        received = weights[:, :, : terms.prefix] @ prefix_sources.to(shares)
        received += weights[:, :, terms.prefix :] @ shares[:, : rows.stop]
        content = terms.is_content()[:, rows, None]
        after = RESIDUAL * shares[:, rows] + (1 - RESIDUAL) * received
        mixed[:, rows] = torch.where(content, after, shares[:, rows])
    return mixed

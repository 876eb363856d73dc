"""Attention rollout: how much of each source reaches a token through the layers' attention.

Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020 (arXiv:2005.00928): with Ã = ½ A + ½ I
for the residual stream and A the mean over heads, layer ℓ's rollout is Ã_ℓ Ã_{ℓ−1} … Ã_0. What groups of
tokens contribute is that product times the groups' indicator columns, so it is built from right to left
with one column per group: no n × n product is needed.
"""

import torch
from torch import Tensor

from promptstage.lightning_modules.functional.saliency import BLOCK, AttentionTerms, attention_weights

RESIDUAL = 0.5  # the identity's weight in Ã


def rollout(terms: AttentionTerms, shares: Tensor, prefix_sources: Tensor, block: int = BLOCK) -> Tensor:
    """Carry the sources' shares through one layer.

    Virtual tokens are sources of their own: they are the layer's input and never see the content.

    Args:
        terms: the layer's, with B examples of n content tokens and p prefix columns.
        shares: (B, n, U), each token's shares of the U sources before this layer; before layer 0 the
            indicator of the source that a token belongs to.
        prefix_sources: (p, U), indicator of the source that each prefix column belongs to.

    Returns:
        (B, n, U) after this layer, as ``shares``; rows of padding keep what they had.
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

"""Attention written out literally, head by head, as an attention implementation of transformers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SLOW = "slow_reference"


def slow_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    given: Mapping[int, tuple[Tensor, Tensor]] | None = None,
    materialized: dict[int, list[Tensor]] | None = None,
    rule: Mapping[int, Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """softmax(Q Kᵀ · scaling + mask) V, head by head, of capped scores with a sink where there are.

    Args:
        softcap: c in c · tanh(score / c).
        s_aux: (heads,), score of a last column whose value is 0.
        attention_mask: (B, 1, n, c), 0 where seen and -inf elsewhere.
        given: for a layer, keys and values (heads, m, head dim) that every query sees: prefix tuning.
        materialized: filled with each layer's weights (B, n, c), head by head, which keep their gradients.
        rule: for a layer, pairs (n, c) of a query and a key that it does not see, True where hidden.
    """
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: Any = module.layer_idx
    outputs = []
    for head in range(heads):
        q, k, v = query[:, head], key[:, head // groups], value[:, head // groups]
        mask = attention_mask[:, 0]
        if given is not None:
            more_keys, more_values = (part[head // groups] for part in given[layer])
            k = torch.cat([more_keys.expand(len(k), -1, -1), k], dim=1)
            v = torch.cat([more_values.expand(len(v), -1, -1), v], dim=1)
            mask = torch.cat([mask.new_zeros(*mask.shape[:2], more_keys.shape[0]), mask], dim=2)
        scores = q @ k.transpose(1, 2) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores + mask
        if rule is not None and layer in rule:
            scores = scores.masked_fill(rule[layer], -torch.inf)
        if s_aux is not None:
            scores = torch.cat([scores, s_aux[head].expand(*scores.shape[:2], 1)], dim=2)
        weights = scores.softmax(-1)[..., : k.shape[1]]
        if materialized is not None:
            weights.requires_grad_()
            weights.retain_grad()
            materialized.setdefault(layer, []).append(weights)
        outputs.append(weights @ v)
    return torch.stack(outputs, dim=2), None


def register_slow() -> None:
    """Make the slow attention known to transformers, with the masks of eager attention."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(SLOW, slow_attention)
    AttentionMaskInterface.register(SLOW, eager_mask)

"""The one place where attention is extended: a prefix is attended to here and nowhere else.

``prefix_attention`` is registered with transformers as an attention implementation. Every forward
carries an ``AttentionContext`` as a keyword argument down to it; there is no global state.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lightning_modules.backbone.prefix import LayerPrefix, Prefix

# The name must not contain 'flash': transformers then expects flash-attention's own masks.
IMPLEMENTATION = "promptstage"


@dataclass
class AttentionContext:
    """What one forward wants of attention.

    Attributes:
        prefix: keys and values put before each layer's own; ``None`` for the bare backbone.
        prefix_in_cache: the cache holds the prefix already (see ``generation.PrefixCache``).
        recorded: when not ``None``, filled with each layer's own (keys, values), positions applied.
    """

    prefix: Prefix | None = None
    prefix_in_cache: bool = False
    recorded: dict[int, LayerPrefix] | None = None
    _masks: dict[tuple[int, int, int, int], tuple[Tensor | None, Tensor]] = field(default_factory=dict)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, c, head dim) with the layer's prefix before them."""
        if self.recorded is not None:
            self.recorded[layer] = (keys, values)
        entry = None if self.prefix is None or self.prefix_in_cache else self.prefix.layers[layer]
        if entry is None:
            return keys, values
        batch = keys.shape[0]
        own = [part.to(keys.dtype).expand(batch, -1, -1, -1) for part in entry]
        return torch.cat([own[0], keys], dim=2), torch.cat([own[1], values], dim=2)

    def widened(self, mask: Tensor | None, length: int, query: Tensor, columns: int) -> Tensor:
        """Additive mask over prefix and content, made once a forward for each prefix length.

        Args:
            mask: boolean (B or 1, 1, n, c), or ``None`` for causal from the first content token.
            length: virtual tokens of this layer; every query sees them.
            query: (B, heads, n, head dim).
            columns: length + c.
        """
        key = (id(mask), length, query.shape[2], columns)
        if key not in self._masks:
            content = columns - length
            if mask is None:
                mask_ = torch.ones(query.shape[2], content, dtype=torch.bool, device=query.device).tril()
                mask_ = mask_[None, None]
            else:
                mask_ = mask[..., :content]
            visible = mask_.new_ones(*mask_.shape[:-1], length)
            bias = torch.zeros((), dtype=query.dtype, device=query.device)
            # The least finite number, not -inf: a padding row that sees nothing must not turn to NaN.
            lowest = torch.finfo(query.dtype).min
            bias = torch.where(torch.cat([visible, mask_], dim=-1), bias, lowest)
            self._masks[key] = (mask, bias)  # the mask is kept alive: its id is the key
        return self._masks[key][1]


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    context: AttentionContext | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over a prefix and the content.

    Args:
        module: the attention module; its ``layer_idx`` selects the layer's prefix.
        query: (B, heads, n, head dim).
        key, value: (B, key-value heads, c, head dim), the content's, with the cache's if there is one.
        attention_mask: boolean (B, 1, n, c), True where seen, or ``None`` for plain causal.

    Returns:
        (B, n, heads, head dim) and no weights.
    """
    if kwargs.get("softcap") is not None:
        raise NotImplementedError("attention with softcap")  # refused with a clear line on loading
    context = context or AttentionContext()
    layer: int = module.layer_idx  # type: ignore[assignment]  # nn.Module types attributes loosely
    length = context.prefix.length(layer) if context.prefix is not None else 0
    key, value = context.extend(layer, key, value)
    single = query.shape[2] == 1
    causal = attention_mask is None and length == 0 and not single
    mask = None
    if not causal and not (attention_mask is None and single):
        mask = context.widened(attention_mask, length, query, key.shape[2])
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is not None and query.is_cuda:
        # CUDA's masked kernels know no grouped heads; repeating is cheaper than their fallback.
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make ``prefix_attention`` known to transformers, with the mask it expects.

    Without the second registration the mask would be ``None`` and padding would be attended to.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, prefix_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)

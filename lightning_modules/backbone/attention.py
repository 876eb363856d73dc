"""Attention over a prefix and the content, the only place where a prefix enters the model.

``prefix_attention`` is registered with transformers as an attention implementation. Every forward pass
carries an ``AttentionContext`` down to it, as a keyword argument or as ``carrier`` describes.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.attention_hooks import LayerAttention
from promptstage.lightning_modules.backbone.carrier import running_context
from promptstage.lightning_modules.backbone.layer_views import layer_view, query_growth, register_view_search
from promptstage.lightning_modules.backbone.packed_attention import packed_attention

# The name must not contain 'flash': transformers then expects flash-attention's own masks.
IMPLEMENTATION = "promptstage"


# Raised while the backbone is verified.
SPARSE = "its attention is sparse: an indexer selects the tokens to attend to, without the prefix"
_UNSUPPORTED = {
    "position_bias": "its attention adds a bias of relative positions, which keys of a prefix lack",
    "indices": SPARSE,
    "block_indices": SPARSE,
}


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    context: AttentionContext | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute scaled dot-product attention over a prefix and the content.

    Args:
        module: the attention module; its ``layer_idx`` selects the layer's prefix.
        query: (B, heads, n, head dim).
        key, value: (B, key-value heads, c, head dim) of the content, cached columns included; the width of
            values may differ.
        attention_mask: boolean (B, 1, n, c), True where a query attends; None: causal.
        softcap: bound of the scores, for which there is no fused kernel; None: unbounded.
        s_aux: (heads,), logits of attention sinks; None: no sinks.

    Returns:
        (B, n, heads, width of values), and None instead of attention weights.
    """
    for argument, cause in _UNSUPPORTED.items():
        if kwargs.get(argument) is not None:
            raise NotImplementedError(cause)
    if attention_mask is not None and (attention_mask.dtype != torch.bool or attention_mask.shape[1] != 1):
        raise NotImplementedError("its attention masks depend on the head or are not boolean")
    context = context or running_context() or AttentionContext()
    layer: int = module.layer_idx  # type: ignore[assignment]  # nn.Module types attributes loosely
    window, chunk = layer_view(module, kwargs)
    growth = query_growth(module)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if context.packing is not None:
        plain = softcap is None and s_aux is None and growth is None and not dropout
        if plain and context.runs_in_blocks(layer, window, chunk, query, value):
            prefix = context.keys_values(layer)
            return packed_attention(query, key, value, prefix, context.packing.blocks, scale), None
        query, key, value = (context.packing.unpack(part) for part in (query, key, value))
        attention_mask = None  # a causal mask hides right padding
    length = context.prefix.length(layer) if context.prefix is not None else 0
    key, value = context.extend(layer, key, value)
    rows, columns = query.shape[2], key.shape[2] - length
    if window is not None and window >= columns:
        window = None
    if chunk is not None and chunk >= context.first + columns:
        chunk = None
    # transformers' own masks have chunks of the content alone.
    if chunk is not None and (context.packing is not None or context.prefix is not None):
        attention_mask = context.chunked(chunk, rows, columns, query.device)
    if growth is not None:
        query = growth(query, context.positions(columns, query.device)[:, -rows:])
    seen = partial(context.seen, layer, attention_mask, window, query, key.shape[2])
    attention = LayerAttention(
        query, key, value, scale, length, window, seen, softcap, s_aux, chunk, context.first
    )
    if softcap is None:
        output = _fused(context, layer, attention, attention_mask, dropout)
    else:
        output = attention.output(attention.weights()).to(query.dtype)
    for hook in context.hooks:
        if layer in hook.layers:
            output = hook(layer, attention, output)
    output = output.transpose(1, 2)
    if context.packing is not None:
        return context.packing.pack(output), None
    return output.contiguous(), None


def _fused(
    context: AttentionContext,
    layer: int,
    attention: LayerAttention,
    attention_mask: Tensor | None,
    dropout: float,
) -> Tensor:
    """Compute the output (B, heads, n, head dim) of attention, in a fused kernel where there is one."""
    query, key, value = attention.query, attention.key, attention.value
    sinks = attention.sink_logits
    single = query.shape[2] == 1
    unmasked = attention_mask is None and attention.window is None
    unmasked &= context.prefix is None or context.prefix.dropped is None
    causal = unmasked and attention.prefix == 0 and not single and sinks is None
    mask = None
    if not causal and not (unmasked and single):
        mask = context.additive_mask(
            layer, attention_mask, attention.window, query, key.shape[2], sinks is not None
        )
    if sinks is not None:
        query, key, value = _with_sinks(query, key, value, sinks / attention.scaling)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and single:
        # The heads of a group as rows of one head: its keys and values are read once.
        rows = query.reshape(query.shape[0], key.shape[1], groups, query.shape[3])
        mask = None if mask is None else mask.expand(-1, -1, groups, -1)
        output = scaled_dot_product_attention(
            rows, key, value, attn_mask=mask, dropout_p=dropout, scale=attention.scaling
        )
        return output.view(*query.shape[:3], value.shape[3])
    if groups > 1 and mask is not None and query.is_cuda:
        # CUDA's masked kernels do not support grouped heads; repeating is cheaper than their fallback.
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal,
        scale=attention.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _with_sinks(query: Tensor, key: Tensor, value: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Append the attention sinks' column to keys and values; its product with a head's queries is the logit.

    The logits (heads,) differ between heads. As an additional coordinate of the queries, they need no mask
    with as many heads. Fused kernels need a width that is a multiple of 8.
    """
    batch, heads, rows, width = query.shape
    more = -width % 8 or 8
    query = torch.cat([query, logits.to(query.dtype)[:, None, None].expand(batch, heads, rows, 1)], dim=-1)
    query = pad(query, (0, more - 1))
    key, value = pad(key, (0, more, 0, 1)), pad(value, (0, 0, 0, 1))
    key[:, :, -1, width] = 1
    return query, key, value


def register() -> None:
    """Register ``prefix_attention`` with transformers, and the mask that it expects.

    Without the second registration the mask would be None, and padding would be attended to.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, prefix_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    register_view_search()

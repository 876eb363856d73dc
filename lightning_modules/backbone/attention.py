"""Attention over a prefix and the content, the only place where a prefix enters the model.

``prefix_attention`` is registered with transformers as an attention implementation. Every forward pass
carries an ``AttentionContext`` as a keyword argument down to it; there is no global state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix

# The name must not contain 'flash': transformers then expects flash-attention's own masks.
IMPLEMENTATION = "promptstage"


@dataclass(frozen=True)
class Packing:
    """Positions of the tokens of a packed row in the padded batch that they come from.

    Everything but attention works token by token, so a batch is run as one row of its real tokens and
    is padded only for attention: padding costs nothing elsewhere.

    Attributes:
        batch: number of sequences (B).
        width: length of the longest sequence (n).
        index: (N,) for each real token ``sequence * width + column``.
    """

    batch: int
    width: int
    index: Tensor

    def unpack(self, states: Tensor) -> Tensor:
        """Convert (1, heads, N, head dim) to (B, heads, n, head dim), zero on padding."""
        heads, _, head_dim = states.shape[1:]
        padded = states.new_zeros(self.batch * self.width, heads, head_dim)
        # Not index_copy, which saves the copied tensor for the backward pass; this saves the index only.
        padded = padded.index_put((self.index,), states[0].transpose(0, 1))
        return padded.view(self.batch, self.width, heads, head_dim).transpose(1, 2)

    def pack(self, output: Tensor) -> Tensor:
        """Convert (B, n, heads, head dim) to (1, N, heads, head dim)."""
        return output.flatten(0, 1)[self.index][None]


class AttentionContext:
    """Options of attention for one forward pass.

    Not a dataclass: FSDP would rebuild one for each block that it passes through.

    Attributes:
        prefix: what each layer attends to, and starts from, besides the content; None: no prefix.
        prefix_in_cache: the cache may contain the prefix (see ``prefix_cache.PrefixCache``).
        holds_prefix: whether the keys and values that the cache returns for a layer begin with its prefix.
        packing: the row is a packed batch, each sequence padded on the right, if at all.
        hooks: see each layer's attention, in this order.
        mixing: tokens that token mixers run over; None: all, from the state of the prefix.
    """

    def __init__(
        self,
        prefix: Prefix | None = None,
        prefix_in_cache: bool = False,
        packing: Packing | None = None,
        hooks: Sequence[AttentionHook] = (),
        mixing: MixerPass | None = None,
    ) -> None:
        self.prefix = prefix
        self.prefix_in_cache = prefix_in_cache
        self.packing = packing
        self.hooks = hooks
        self.mixing = mixing
        self.holds_prefix: Callable[[int], bool] = lambda layer: prefix_in_cache
        self._masks: dict[tuple, tuple[Tensor | None, Tensor]] = {}
        self._owners: dict[int, tuple[ReferenceType[Tensor], int]] = {}

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Prepend the layer's prefix to keys and values (B, heads, c, width), unless they begin with it."""
        if self.prefix is None:
            return keys, values
        entry = self.prefix.layers[layer]
        if self.prefix_in_cache:
            # Some layers reuse keys and values of an earlier one, which the cache has extended by its prefix.
            owner = self._owner(layer, keys)
            cached = self.prefix.layers[owner] if self.holds_prefix(owner) else None
            if _same(entry, cached):
                return keys, values
            if cached is not None:
                keys, values = (part[:, :, cached.length :] for part in (keys, values))
        if entry is None or entry.keys is None or entry.values is None:
            return keys, values
        batch = keys.shape[0]
        own = [part.to(keys.dtype).expand(batch, -1, -1, -1) for part in (entry.keys, entry.values)]
        return torch.cat([own[0], keys], dim=2), torch.cat([own[1], values], dim=2)

    def _owner(self, layer: int, keys: Tensor) -> int:
        """Return the first layer that these keys were given for."""
        known, owner = self._owners.get(id(keys), (None, layer))
        if known is None or known() is not keys:  # an id may be that of an earlier object
            owner = layer
            self._owners[id(keys)] = (ref(keys), layer)
        return owner

    def seen(
        self, layer: int, mask: Tensor | None, window: int | None, query: Tensor, columns: int
    ) -> Tensor:
        """Compute the mask (B or 1, 1, n, columns) over prefix and content, True where a row attends.

        Args:
            layer: index of the layer, all of whose prefix is attended to, except dropped columns.
            mask: boolean (B or 1, 1, n, c); None: causal, the last query attends to all content.
            window: without a mask, the number of content tokens, its own included, that a query attends to;
                None: all.
            query: (B, heads, n, head dim).
            columns: number of columns of prefix and content.
        """
        length = 0 if self.prefix is None else self.prefix.length(layer)
        shown = None if self.prefix is None else self.prefix.seen(layer)
        seen = _causal(query.shape[2], columns - length, window, query.device) if mask is None else mask
        virtual = seen.new_ones(1, length) if shown is None else shown
        batch = max(len(virtual), len(seen))
        virtual = virtual[:, None, None].expand(batch, -1, seen.shape[2], -1)
        return torch.cat([virtual, seen.expand(batch, -1, -1, -1)], dim=-1)

    def additive_mask(
        self, layer: int, mask: Tensor | None, window: int | None, query: Tensor, columns: int, sinks: bool
    ) -> Tensor:
        """Return :meth:`seen` as an additive mask, computed once per forward pass and set of columns.

        Args:
            sinks: append a column that all rows attend to.
        """
        length = 0 if self.prefix is None else self.prefix.length(layer)
        own = layer if self.prefix is not None and self.prefix.dropped is not None else length
        key = (id(mask), own, window, query.shape[2], columns, sinks)
        if key not in self._masks:
            seen = self.seen(layer, mask, window, query, columns)
            # The lowest finite number, not -inf: a padding row without any column must not become NaN.
            lowest = torch.finfo(query.dtype).min
            bias = torch.zeros_like(seen, dtype=query.dtype).masked_fill(~seen, lowest)
            bias = pad(bias, (0, 1)) if sinks else bias
            self._masks[key] = (mask, bias)  # stores the mask, whose id is the key
        return self._masks[key][1]


def _same(one: LayerState | None, other: LayerState | None) -> bool:
    """Return whether the keys and values of two layers' prefixes are the same memory."""
    if one is other:
        return True
    if one is None or other is None:
        return False
    for part, same in ((one.keys, other.keys), (one.values, other.values)):
        if part is None or same is None or part.shape != same.shape or part.data_ptr() != same.data_ptr():
            return False
    return True


def _causal(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Return a mask (1, 1, queries, keys); the last query attends to all keys or the last ``window``."""
    before = keys - queries  # in a cache
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(before)
    return (seen if window is None else seen.triu(before + 1 - window))[None, None]


# Raised while the backbone is verified.
_SPARSE = "its tokens attend only to those that an index selects, which knows no prefix"
_UNSUPPORTED = {
    "position_bias": "its attention adds a bias of relative positions, which keys of a prefix lack",
    "indices": _SPARSE,
    "block_indices": _SPARSE,
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
        module: the attention module; its ``layer_idx`` selects the layer's prefix. Its ``sliding_window`` is
            the window if no argument is.
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
    context = context or AttentionContext()
    if context.packing is not None:
        query, key, value = (context.packing.unpack(part) for part in (query, key, value))
        attention_mask = None  # a causal mask hides right padding
    layer: int = module.layer_idx  # type: ignore[assignment]  # nn.Module types attributes loosely
    length = context.prefix.length(layer) if context.prefix is not None else 0
    key, value = context.extend(layer, key, value)
    window = kwargs.get("sliding_window", getattr(module, "sliding_window", None))
    if window is not None and window >= key.shape[2] - length:
        window = None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    seen = partial(context.seen, layer, attention_mask, window, query, key.shape[2])
    attention = LayerAttention(query, key, value, scale, length, window, seen, softcap, s_aux)
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

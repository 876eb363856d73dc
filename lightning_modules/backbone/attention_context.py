"""Options of attention in one forward pass, and the masks that follow from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.nn.functional import pad

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.packed_attention import CausalBlocks
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix


@dataclass(frozen=True)
class Packing:
    """Positions of the tokens of a packed row in the padded batch that they come from.

    Everything but attention works token by token, so a batch is run as one row of its real tokens. Attention
    runs in blocks of rows where it can (:meth:`AttentionContext.runs_in_blocks`), else on the padded batch.

    Attributes:
        batch: number of sequences (B).
        width: length of the longest sequence (n).
        index: (N,) for each real token ``sequence * width + column``; a sequence's columns have no gaps.
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

    @cached_property
    def blocks(self) -> CausalBlocks:
        """Blocks of rows that attend in one call each."""
        return CausalBlocks.of(self.index // self.width, self.index % self.width, self.batch)


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
        content: (B, c), 1 on content, 0 on its left padding, cached columns included; None: no padding.
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
        self.content: Tensor | None = None
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

    def runs_in_blocks(
        self, layer: int, window: int | None, chunk: int | None, query: Tensor, value: Tensor
    ) -> bool:
        """Return whether :func:`packed_attention` computes a layer's attention.

        Not if a hook sees it, which needs the padded batch, if columns besides later ones are hidden, or on
        devices other than the CPU.

        Args:
            query, value: (1, heads, N, width), packed.
        """
        return (
            self.packing is not None
            and query.device.type == "cpu"
            and query.shape[2] > 0
            and query.shape[3] == value.shape[3]
            and (window is None or window >= self.packing.width)
            and (chunk is None or chunk >= self.first + self.packing.width)
            and (self.prefix is None or self.prefix.dropped is None)
            and not any(layer in hook.layers for hook in self.hooks)
        )

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return keys and values (b, heads, m, width) of the layer's prefix; None: it has none."""
        entry = None if self.prefix is None else self.prefix.layers[layer]
        if entry is None or entry.keys is None or entry.values is None:
            return None
        return entry.keys, entry.values

    def _owner(self, layer: int, keys: Tensor) -> int:
        """Return the first layer that these keys were given for."""
        known, owner = self._owners.get(id(keys), (None, layer))
        if known is None or known() is not keys:  # an id may be that of an earlier object
            owner = layer
            self._owners[id(keys)] = (ref(keys), layer)
        return owner

    @property
    def first(self) -> int:
        """Position of the first content token."""
        return 0 if self.prefix is None else self.prefix.num_positions

    def positions(self, columns: int, device: torch.device) -> Tensor:
        """Return the positions (B or 1, columns) of all content columns, cached ones included."""
        if self.content is None:
            return self.first + torch.arange(columns, device=device)[None]
        return self.first + (self.content.cumsum(1) - 1).clamp(min=0)

    def chunked(self, chunk: int, rows: int, columns: int, device: torch.device) -> Tensor:
        """Return a mask (B or 1, 1, rows, columns) of content that is in one chunk of positions.

        Args:
            rows: number of queries, the last of the content.
            columns: number of content columns.
        """
        key = ("chunked", chunk, rows, columns)
        if key not in self._masks:
            chunks = self.positions(columns, device) // chunk
            seen = chunks[:, None, -rows:, None] == chunks[:, None, None]
            seen = seen & _causal(rows, columns, None, device)
            if self.content is not None:
                seen = seen & self.content.bool()[:, None, None]
            self._masks[key] = (None, seen)
        return self._masks[key][1]

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

"""Cache of keys, values and states of token mixers that begins with a prefix."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from promptstage.lightning_modules.backbone.prefix import (
    LayerState,
    MixerState,
    Prefix,
    joined_states,
    map_state,
    select_rows,
)

SPARE = 64  # columns that a full cache grows by, at least


class _PrefixCacheLayer(CacheLayerMixin):
    """One layer's keys and values in a buffer of fixed size: the prefix, then the content.

    Lengths reported to transformers exclude the prefix. If what the model caches has other shapes than the
    keys and values that it attends to, such as latents (MLA), the buffer holds the content only.
    """

    is_sliding = False

    def __init__(self, prefix: LayerState | None, capacity: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.capacity = capacity
        self.start = 0 if prefix is None else prefix.length
        self.length = 0
        self.rows = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.rows, heads, _, width = key_states.shape
        entry, self.prefix = self.prefix or LayerState(), None
        keys, values = entry.keys, entry.values
        if keys is not None and values is not None:
            shapes = keys.shape[1::2], values.shape[1::2]
            if shapes != (key_states.shape[1::2], value_states.shape[1::2]):
                keys, values, self.start = None, None, 0
        size = self.start + self.capacity
        self.keys = key_states.new_empty(self.rows, heads, size, width)
        self.values = value_states.new_empty(self.rows, value_states.shape[1], size, value_states.shape[-1])
        if keys is not None and values is not None:
            self.keys[:, :, : self.start] = keys
            self.values[:, :, : self.start] = values
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        begin = self.start + self.length
        self.length += key_states.shape[2]
        end = self.start + self.length
        self.keys[: self.rows, :, begin:end] = key_states
        self.values[: self.rows, :, begin:end] = value_states
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    def repeat(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:  # None in layers that reuse another's
            self.rows = len(rows)
            self.keys, self.values = self.keys[rows], self.values[rows]

    def keep(self, order: Sequence[int]) -> None:
        if self.keys is not None and self.values is not None:
            move_rows(self.keys, order)
            move_rows(self.values, order)
            self.rows = len(order)

    def resize(self, rows: int, columns: int, capacity: int) -> None:
        """Copy the last ``columns`` columns of content to new buffers; all content at the right if fewer."""
        self.capacity = capacity
        if self.keys is not None and self.values is not None:
            sizes = rows, self.start, columns, capacity
            self.keys = self._resized(self.keys, *sizes)
            self.values = self._resized(self.values, *sizes)
        self.length = columns

    def _resized(self, states: Tensor, rows: int, start: int, columns: int, capacity: int) -> Tensor:
        used, kept = states[: self.rows], min(columns, self.length)
        new = states.new_empty(max(rows, self.rows), states.shape[1], start + capacity, states.shape[3])
        own, end = new[: self.rows], start + columns
        own[:, :, :start] = used[:, :, :start]
        own[:, :, start : end - kept] = 0  # hidden, but NaN would spread
        own[:, :, end - kept : end] = used[:, :, start + self.length - kept : start + self.length]
        return new

    def append(self, other: "_PrefixCacheLayer") -> None:
        """Append the rows of another layer, which has at most as many columns."""
        if other.keys is not None and other.values is not None:
            assert self.keys is not None
            assert self.values is not None
            rows = slice(self.rows, self.rows + other.rows)
            end, first = self.start + self.length, self.start + self.length - other.length
            for own, new in ((self.keys, other.keys), (self.values, other.values)):
                own[rows, :, : self.start] = new[: other.rows, :, : self.start]
                own[rows, :, self.start : first] = 0  # hidden, but NaN would spread
                own[rows, :, first:end] = new[: other.rows, :, self.start : self.start + other.length]
            self.rows += other.rows


def move_rows(states: Tensor, order: Sequence[int]) -> None:
    """Move the rows that are not in their new place yet; each of them comes from behind ``order``'s end."""
    moved = [(place, row) for place, row in enumerate(order) if place != row]
    if moved:
        places, rows = torch.tensor(moved, device=states.device).unbind(1)
        states[places] = states[rows]


class PrefixCache(Cache):
    """A cache that begins with a prefix, whose length may differ between layers.

    Attributes:
        states: current states (B, ...) of token mixers by layer, which may be changed in place.
    """

    def __init__(
        self,
        prefix: Prefix | None,
        num_layers: int,
        capacity: int,
        attention_layers: Collection[int] | None = None,
    ) -> None:
        """
        Args:
            prefix: the prefix, of which the cache has a copy.
            num_layers: number of layers.
            capacity: number of content tokens to make room for in each layer.
            attention_layers: layers with keys and values; None: all.
        """
        entries = (None,) * num_layers if prefix is None else prefix.layers
        attending = range(num_layers) if attention_layers is None else attention_layers
        self.buffers = {layer: _PrefixCacheLayer(entries[layer], capacity) for layer in attending}
        layers: list[Any] = [self.buffers.get(layer) for layer in range(num_layers)]
        if None in layers:
            from transformers.cache_utils import DummyLayer  # not in transformers 5.17

            # transformers takes the number of cached tokens from the first layer that is not a dummy.
            layers = [DummyLayer() if layer is None else layer for layer in layers]
        super().__init__(layers=layers)
        self.states: dict[int, MixerState] = {}
        for layer, entry in enumerate(entries):
            if entry is not None and entry.mixer is not None:
                self.states[layer] = map_state(entry.mixer, Tensor.clone)

    def holds_prefix(self, layer: int) -> bool:
        """Return whether a layer's keys and values begin with its prefix, once the layer has been run."""
        return self.buffers[layer].start > 0

    def repeat(self, rows: Tensor) -> None:
        """Repeat rows of the batch: those that ``rows`` names, in this order."""
        for buffer in self.buffers.values():
            buffer.repeat(rows)
        for layer, state in self.states.items():
            self.states[layer] = select_rows(state, rows)

    def keep(self, order: Sequence[int]) -> None:
        """Keep some rows of the batch.

        Args:
            order: the row that comes to each place: the one that is there already, or one that is behind the
                last place.
        """
        for buffer in self.buffers.values():
            buffer.keep(order)
        for layer, state in self.states.items():
            self.states[layer] = select_rows(state, list(order))

    @property
    def full(self) -> bool:
        """Return whether there is no room for another column."""
        return any(buffer.length == buffer.capacity for buffer in self.buffers.values())

    def resize(self, rows: int, columns: int) -> None:
        """Make room for ``rows`` rows, and for more columns than now.

        Args:
            rows: number of rows.
            columns: number of columns of content to keep, the last ones; zeros are put before fewer.
        """
        for buffer in self.buffers.values():
            buffer.resize(rows, columns, columns + max(SPARE, columns // 4))

    def append(self, other: "PrefixCache", columns: int) -> None:
        """Append the rows of another cache, so that both end in the same column.

        Args:
            columns: the larger number of columns of content of the two.
        """
        for layer, buffer in self.buffers.items():
            added = other.buffers[layer]
            rows = buffer.rows + added.rows
            if buffer.keys is not None and (rows > len(buffer.keys) or columns > buffer.length):
                buffer.resize(rows, columns, max(buffer.capacity, columns))
            buffer.append(added)
        for layer, state in self.states.items():
            self.states[layer] = joined_states(state, other.states[layer])

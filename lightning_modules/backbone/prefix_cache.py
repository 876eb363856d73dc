"""Cache of keys, values and states of token mixers that begins with a prefix."""

from collections.abc import Collection
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from promptstage.lightning_modules.backbone.prefix import (
    LayerState,
    MixerState,
    Prefix,
    map_state,
    select_rows,
)


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

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, width = key_states.shape
        entry, self.prefix = self.prefix or LayerState(), None
        keys, values = entry.keys, entry.values
        if keys is not None and values is not None:
            shapes = keys.shape[1::2], values.shape[1::2]
            if shapes != (key_states.shape[1::2], value_states.shape[1::2]):
                keys, values, self.start = None, None, 0
        size = self.start + self.capacity
        self.keys = key_states.new_empty(batch, heads, size, width)
        self.values = value_states.new_empty(batch, value_states.shape[1], size, value_states.shape[-1])
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
        self.keys[:, :, begin:end] = key_states
        self.values[:, :, begin:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    def select(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:  # None in layers that reuse another's
            self.keys, self.values = self.keys[rows], self.values[rows]


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

    def select(self, rows: Tensor) -> None:
        """Keep some rows of the batch, or repeat some."""
        for buffer in self.buffers.values():
            buffer.select(rows)
        for layer, state in self.states.items():
            self.states[layer] = select_rows(state, rows)

"""State of each layer after the virtual tokens: what the content that follows them attends to or starts from.

Virtual tokens precede the content and every layer is causal, so their keys, values and recurrent states are
the same for every example: they are computed at batch size 1, with gradient, and shared by a whole batch or
evaluation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, overload

import torch
from torch import Tensor

MixerState = tuple[Tensor | None, ...]
"""States (b, ...) of a token mixer, each in its own dtype: those of convolutions, then recurrent ones.

A single tensor (b, m, d + 1) is the input of a mixer that cannot start from states, and runs over the virtual
tokens again: their hidden states, and 1 on tokens that it runs over.
"""


class LayerState(NamedTuple):
    """State of one layer after leading and virtual tokens.

    A tensor with b = 1 rows is shared by the batch; otherwise there is one row per example.

    Attributes:
        keys, values: (b, key-value heads, m, head dim), positions applied to the keys; None: the layer has no
            attention.
        mixer: state of the layer's token mixer (see ``token_mixers``); None: it has none, or starts anew.
        leading: state of the token mixer after the leading tokens alone.
    """

    keys: Tensor | None = None
    values: Tensor | None = None
    mixer: MixerState | None = None
    leading: MixerState | None = None

    @property
    def length(self) -> int:
        """Number of columns of keys and values (m)."""
        return 0 if self.keys is None else self.keys.shape[2]

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the state."""
        parts = (self.keys, self.values, *(self.mixer or ()), *(self.leading or ()))
        return [part for part in parts if part is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> "LayerState":
        """Apply a function to every tensor of the state."""
        keys, values = map_state((self.keys, self.values), change)
        return LayerState(keys, values, map_state(self.mixer, change), map_state(self.leading, change))

    def part(self, rows: slice, length: int) -> "LayerState | None":
        """Select rows, and the first ``length`` columns of keys and values; None if nothing is left."""
        if not length or (self.keys is None and self.mixer is None):
            return None
        keys, values = map_state((self.keys, self.values), lambda part: part[rows, :, :length])
        return LayerState(keys, values, select_rows(self.mixer, rows), self.leading)


@overload
def map_state(state: MixerState, change: Callable[[Tensor], Tensor]) -> MixerState: ...
@overload
def map_state(state: None, change: Callable[[Tensor], Tensor]) -> None: ...
def map_state(state: MixerState | None, change: Callable[[Tensor], Tensor]) -> MixerState | None:
    """Apply a function to every tensor of a token mixer's state."""
    return None if state is None else tuple(None if part is None else change(part) for part in state)


@overload
def select_rows(state: MixerState, rows: Tensor | slice | list[int]) -> MixerState: ...
@overload
def select_rows(state: None, rows: Tensor | slice | list[int]) -> None: ...
def select_rows(state: MixerState | None, rows: Tensor | slice | list[int]) -> MixerState | None:
    """Select rows of a token mixer's state."""
    return map_state(state, lambda part: part[rows])


def joined_states(state: MixerState, other: MixerState) -> MixerState:
    """Join the rows of two states of a token mixer."""
    pairs = zip(state, other, strict=True)
    return tuple(None if one is None or two is None else torch.cat([one, two]) for one, two in pairs)


@dataclass(frozen=True)
class Prefix:
    """State of each layer that content tokens attend to or start from.

    Attributes:
        layers: for each layer its state, or None if content neither attends to nor starts from anything. The
            number of columns (m) may differ between layers.
        num_positions: positions taken by virtual tokens; content starts at this position in every
            layer, also in layers with a shorter prefix.
        stages: number of virtual tokens of each stage's prompt; one entry for methods without stages.
        first: for each layer, the index of its first virtual token among those of all stages; None: 0 in
            every layer.
        num_leading: real tokens before the virtual ones: 1 if a BOS is prepended.
        dropped: (b,) int64, the column of each example (leading tokens included) that no token attends to,
            -1 for none; None: all columns are attended to.
    """

    layers: tuple[LayerState | None, ...]
    num_positions: int
    stages: tuple[int, ...]
    first: tuple[int, ...] | None = None
    num_leading: int = 0
    dropped: Tensor | None = None

    def length(self, layer: int) -> int:
        """Number of columns that content attends to in ``layer``: leading and virtual tokens."""
        entry = self.layers[layer]
        return 0 if entry is None else entry.length

    def virtual(self, layer: int) -> int:
        """Number of virtual tokens that content attends to in ``layer``."""
        return max(self.length(layer) - self.num_leading, 0)

    def columns(self, layer: int) -> list[int]:
        """Indices of ``layer``'s columns among all: leading tokens, then every stage's virtual tokens."""
        start = self.num_leading + (0 if self.first is None else self.first[layer])
        return [*range(min(self.num_leading, self.length(layer))), *range(start, start + self.virtual(layer))]

    @property
    def total(self) -> int:
        """Number of leading tokens and every stage's virtual tokens (M)."""
        return self.num_leading + sum(self.stages)

    def spread(self, values: Tensor, layer: int) -> Tensor:
        """Scatter values (…, columns of ``layer``) to all columns (…, M); NaN in the others."""
        wide = values.new_full((*values.shape[:-1], self.total), torch.nan)
        wide[..., self.columns(layer)] = values
        return wide

    def seen(self, layer: int) -> Tensor | None:
        """Mask (b, columns) of the columns of ``layer`` that content attends to; None: all."""
        if self.dropped is None or not self.length(layer):
            return None
        return torch.tensor(self.columns(layer), device=self.dropped.device) != self.dropped[:, None]

    @property
    def batch_size(self) -> int:
        """1 if shared by the batch, else the number of examples."""
        sizes = (len(part) for entry in self.layers if entry is not None for part in entry.tensors())
        return max(sizes, default=1)

    def select(self, rows: Tensor) -> "Prefix":
        """Select the prefixes of some examples; a shared prefix is returned unchanged."""
        if self.batch_size == 1:
            return self
        prefix = self._map(lambda part: part if len(part) == 1 else part[rows])
        dropped = None if self.dropped is None else self.dropped[rows]
        return replace(prefix, dropped=dropped)

    def visible(self, start: int, end: int | None) -> "Prefix":
        """Restrict the virtual tokens to layers ``start`` to ``end`` - 1 (None: to the last layer).

        In other layers token mixers start from their state after the leading tokens. Leading tokens and
        positions are the same in every layer.
        """
        stop = len(self.layers) if end is None else end
        layers = [
            entry if start <= layer < stop else self._leading(entry)
            for layer, entry in enumerate(self.layers)
        ]
        return replace(self, layers=tuple(layers))

    def _leading(self, entry: LayerState | None) -> LayerState | None:
        if entry is None or not self.num_leading:
            return None
        return entry._replace(mixer=entry.leading).part(slice(None), self.num_leading)

    def gated(self, gates: Tensor) -> "Prefix":
        """Multiply the values of each stage's virtual tokens by its gate, (G,); token mixers have none."""
        scale = gates.repeat_interleave(torch.tensor(self.stages, device=gates.device))
        scale = torch.cat([scale.new_ones(self.num_leading), scale])

        def scaled(entry: LayerState, layer: int) -> LayerState:
            if entry.values is None:
                return entry
            values = entry.values * scale[self.columns(layer), None]
            return entry._replace(values=values.to(entry.values.dtype))

        layers = (None if entry is None else scaled(entry, i) for i, entry in enumerate(self.layers))
        return replace(self, layers=tuple(layers))

    def detach(self) -> "Prefix":
        """Detach all states from the graph."""
        return self._map(Tensor.detach)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Prefix":
        return replace(self, layers=tuple(entry and entry.map(change) for entry in self.layers))

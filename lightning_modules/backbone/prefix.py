"""Keys and values that content attends to in each layer.

Virtual tokens precede the content and attention is causal, so their keys and values are the same for every
example: they are computed at batch size 1, with gradient, and shared by a whole batch or evaluation.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

LayerPrefix = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Prefix:
    """Keys and values that content tokens attend to, layer by layer.

    Attributes:
        layers: for each layer ``None`` or (keys, values), both (b, key-value heads, m, head dim) with
            b = 1 (shared by the batch) or the batch size (one prefix per example). m may differ
            between layers. Positions are applied to the keys.
        num_positions: positions taken by virtual tokens; content starts at this position in every
            layer, also in layers with a shorter prefix.
        stages: number of virtual tokens of each stage's prompt; one entry for methods without stages.
        first: for each layer, the index of its first virtual token among those of all stages; None: 0 in
            every layer.
        num_leading: real tokens before the virtual ones: 1 if a BOS is prepended.
        dropped: (b,) int64, the column of each example (leading tokens included) that no token attends to,
            -1 for none; None: all columns are attended to.
    """

    layers: tuple[LayerPrefix | None, ...]
    num_positions: int
    stages: tuple[int, ...]
    first: tuple[int, ...] | None = None
    num_leading: int = 0
    dropped: Tensor | None = None

    def length(self, layer: int) -> int:
        """Number of columns that content attends to in ``layer``: leading and virtual tokens."""
        entry = self.layers[layer]
        return 0 if entry is None else entry[0].shape[2]

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
        if self.dropped is None or self.layers[layer] is None:
            return None
        return torch.tensor(self.columns(layer), device=self.dropped.device) != self.dropped[:, None]

    @property
    def batch_size(self) -> int:
        """1 if shared by the batch, else the number of examples."""
        return max((entry[0].shape[0] for entry in self.layers if entry is not None), default=1)

    def select(self, rows: Tensor) -> "Prefix":
        """Select the prefixes of some examples; a shared prefix is returned unchanged."""
        if self.batch_size == 1:
            return self
        layers = (None if entry is None else (entry[0][rows], entry[1][rows]) for entry in self.layers)
        dropped = None if self.dropped is None else self.dropped[rows]
        return replace(self, layers=tuple(layers), dropped=dropped)

    def visible(self, start: int, end: int | None) -> "Prefix":
        """Restrict the virtual tokens to layers ``start`` to ``end`` - 1 (None: to the last layer).

        Leading tokens and positions are the same in every layer.
        """
        stop = len(self.layers) if end is None else end
        layers = [
            entry if start <= layer < stop else self._leading(entry)
            for layer, entry in enumerate(self.layers)
        ]
        return replace(self, layers=tuple(layers))

    def _leading(self, entry: LayerPrefix | None) -> LayerPrefix | None:
        if entry is None or not self.num_leading:
            return None
        return entry[0][:, :, : self.num_leading], entry[1][:, :, : self.num_leading]

    def gated(self, gates: Tensor) -> "Prefix":
        """Multiply the values of each stage's virtual tokens by its gate, (G,)."""
        scale = gates.repeat_interleave(torch.tensor(self.stages, device=gates.device))
        scale = torch.cat([scale.new_ones(self.num_leading), scale])

        def scaled(entry: LayerPrefix, layer: int) -> LayerPrefix:
            keys, values = entry
            return keys, (values * scale[self.columns(layer), None]).to(values.dtype)

        layers = (None if entry is None else scaled(entry, i) for i, entry in enumerate(self.layers))
        return replace(self, layers=tuple(layers))

    def detach(self) -> "Prefix":
        """Detach keys and values from the graph."""
        layers = (None if entry is None else (entry[0].detach(), entry[1].detach()) for entry in self.layers)
        return replace(self, layers=tuple(layers))

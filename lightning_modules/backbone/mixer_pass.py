"""Rows of tokens that token mixers run over in one forward pass, and the states before and after it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.prefix import MixerState, map_state


class TokenRows(NamedTuple):
    """Sequences of a batch that have the same number of tokens.

    Attributes:
        sequences: (r,) indices of the sequences.
        tokens: (r, c) for each of their tokens ``sequence * n + column``.
    """

    sequences: Tensor
    tokens: Tensor


class MixerPass:
    """Tokens that token mixers run over in a forward pass, and the states that they start from and leave.

    A padded or hidden token must not reach a mixer: even a zero input changes a state that is not zero.

    Attributes:
        states: each layer's state (B, ...), read before the layer and replaced after it; none at first: the
            mixers start anew.
        of_prefix: the tokens are those of a prefix, which others will follow.
    """

    def __init__(
        self,
        active: Callable[[int], Tensor | None] = lambda layer: None,
        states: dict[int, MixerState] | None = None,
        of_prefix: bool = False,
    ) -> None:
        """
        Args:
            active: for a layer, a mask (B, n) of the tokens that its mixer runs over; None: all.
            states: states before the pass.
        """
        self.states = {} if states is None else states
        self._active = active
        self.of_prefix = of_prefix
        self._mask: Tensor | None = None
        self._rows: list[TokenRows] = []

    def mask(self, layer: int) -> Tensor | None:
        """Return a mask (B, n) of the tokens that the layer's mixer runs over; None: all."""
        return self._active(layer)

    def rows(self, layer: int) -> list[TokenRows] | None:
        """Return the tokens of the layer, grouped by their number in a sequence; None: all tokens."""
        mask = self.mask(layer)
        if mask is None:
            return None
        if mask is not self._mask:
            self._mask, self._rows = mask, equal_rows(mask)
        return self._rows


def equal_rows(mask: Tensor) -> list[TokenRows]:
    """Group the sequences of a mask (B, n) by their number of tokens, without empty ones."""
    lengths = mask.sum(1)
    groups = []
    for length in lengths.unique().tolist():
        if length:
            sequences = (lengths == length).nonzero()[:, 0]
            columns = mask[sequences].nonzero()[:, 1].view(-1, length)
            groups.append(TokenRows(sequences, sequences[:, None] * mask.shape[1] + columns))
    return groups


def expanded(state: MixerState | None, batch: int) -> MixerState | None:
    """Expand a state of one row, if it is shared, to ``batch`` rows."""
    return map_state(state, lambda part: part.expand(batch, *part.shape[1:]))


def merged(states: list[MixerState], rows: list[TokenRows], batch: int) -> MixerState:
    """Merge the states of groups of sequences to one of ``batch`` rows, zero for sequences without tokens."""
    order = torch.cat([group.sequences for group in rows])
    parts: list[Tensor | None] = []
    for same in zip(*states, strict=True):
        values = [part for part in same if part is not None]
        if not values:
            parts.append(None)
            continue
        whole = torch.cat(values)
        parts.append(whole.new_zeros(batch, *whole.shape[1:]).index_put((order,), whole))
    return tuple(parts)

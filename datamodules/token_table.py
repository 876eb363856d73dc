"""Token ids of many examples in Arrow columns, instead of small objects for each example."""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from promptstage.datamodules.example import Example

if TYPE_CHECKING:
    import pyarrow as pa


class Encoded(NamedTuple):
    """Token ids of an example, 1-D int32; ``completion`` ends in the end token.

    Attributes:
        spans: (2 + 4 k,) int32, columns of ``prompt``: start and end of the question, then for each of k
            demonstrations start and end of its question and of its completion.
    """

    example: Example
    prompt: Tensor
    completion: Tensor
    spans: Tensor


class Lists(NamedTuple):
    """Lists of integers, one after the other: list i is ``values[ends[i]:ends[i + 1]]``.

    Attributes:
        values: (N,) int32.
        ends: (n + 1,) int64, ascending from 0.
    """

    values: NDArray[np.int32]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, values: ArrayLike, lengths: ArrayLike) -> "Lists":
        """Make lists of values that follow one another."""
        ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls(np.array(values, np.int32), ends.astype(np.int64))

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.ends)

    def row(self, i: int) -> NDArray[np.int32]:
        """Return one list."""
        return self.values[self.ends[i] : self.ends[i + 1]]

    def take(self, rows: NDArray[np.int64]) -> "Lists":
        """Select lists by number."""
        lengths = self.ends[rows + 1] - self.ends[rows]
        return Lists.of(self.values[np.repeat(self.ends[rows], lengths) + _within(lengths)], lengths)

    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of the list of each value, and its index in that list."""
        lengths = self.lengths
        return np.repeat(np.arange(len(lengths)), lengths), _within(lengths)

    def without_first(self, value: int) -> tuple["Lists", NDArray[np.bool_]]:
        """Remove ``value`` from the lists of two or more values that begin with it; return which do."""
        begins = np.zeros(len(self.ends) - 1, bool)
        longer = self.lengths > 1
        begins[longer] = self.values[self.ends[:-1][longer]] == value
        left = np.ones(len(self.values), bool)
        left[self.ends[:-1][begins]] = False
        return Lists.of(self.values[left], self.lengths - begins), begins

    def maxima(self) -> NDArray[np.int32]:
        """Return the largest value of each list; 0 for an empty one."""
        largest = np.zeros(len(self.ends) - 1, np.int32)
        filled = self.lengths > 0
        if filled.any():
            largest[filled] = np.maximum.reduceat(self.values, self.ends[:-1][filled])
        return largest


def _within(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, … up to each length less 1, one list after the other."""
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)


class TokenTable(Sequence[Encoded]):
    """Encoded examples, whose tokens are in flat arrays.

    Args:
        examples: n examples.
        prompt, completion: token ids, by example.
        spans: (n, 2 + 4 k) int32, see :class:`Encoded`.
    """

    def __init__(
        self, examples: Sequence[Example], prompt: Lists, completion: Lists, spans: NDArray[np.int32]
    ) -> None:
        self.examples, self.spans = examples, spans
        self.prompt, self.completion = prompt, completion

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, i: int) -> Encoded: ...

    @overload
    def __getitem__(self, i: slice) -> "TokenTable": ...

    def __getitem__(self, i: int | slice) -> "Encoded | TokenTable":
        """Return the example of a number, or a table of the examples of a slice."""
        if isinstance(i, slice):
            return self.take(range(*i.indices(len(self))))
        i = range(len(self))[i]
        parts = self.prompt.row(i), self.completion.row(i), self.spans[i]
        return Encoded(self.examples[i], *map(torch.from_numpy, parts))

    def take(self, rows: Sequence[int]) -> "TokenTable":
        """Select examples by number, in this order."""
        numbers = np.asarray(rows, np.int64)
        examples = [self.examples[i] for i in rows]
        return TokenTable(
            examples, self.prompt.take(numbers), self.completion.take(numbers), self.spans[numbers]
        )

    # DataLoader calls this instead of one __getitem__ for each example.
    __getitems__ = take

    @classmethod
    def of(cls, rows: Sequence[Encoded]) -> "TokenTable":
        """Make a table of encoded examples with the same number of demonstrations; itself if it is one."""
        if isinstance(rows, TokenTable):
            return rows
        prompt, completion = (
            Lists.of([token for part in parts for token in part.tolist()], [len(part) for part in parts])
            for parts in ([row.prompt for row in rows], [row.completion for row in rows])
        )
        spans = np.stack([row.spans.numpy() for row in rows]) if rows else np.zeros((0, 2), np.int32)
        return cls([row.example for row in rows], prompt, completion, spans)

    def without_first(self, token: int) -> "TokenTable":
        """Remove ``token`` from the prompts that begin with it and have more tokens."""
        prompt, shorter = self.prompt.without_first(token)
        spans = np.where(shorter[:, None], np.maximum(self.spans - 1, 0), self.spans)
        return TokenTable(self.examples, prompt, self.completion, spans)

    @property
    def prompt_lengths(self) -> list[int]:
        """Number of tokens of each prompt."""
        return self.prompt.lengths.tolist()

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each prompt and completion."""
        return (self.prompt.lengths + self.completion.lengths).tolist()

    def largest_tokens(self) -> NDArray[np.int32]:
        """Return the largest token id of each example."""
        return np.maximum(self.prompt.maxima(), self.completion.maxima())


def to_arrow(rows: TokenTable) -> "pa.Table":
    """Return the tokens as Arrow columns ``prompt``, ``completion`` and ``spans``."""
    import pyarrow as pa

    spans = Lists.of(rows.spans.ravel(), np.full(len(rows), rows.spans.shape[1]))
    columns = {"prompt": rows.prompt, "completion": rows.completion, "spans": spans}
    arrays = {
        name: pa.LargeListArray.from_arrays(pa.array(lists.ends), lists.values)
        for name, lists in columns.items()
    }
    return pa.table(arrays)


def from_arrow(examples: Sequence[Example], table: "pa.Table") -> TokenTable:
    """Make the table of examples from the columns of :func:`to_arrow`.

    Raises:
        ValueError: if the columns do not fit the examples.
    """
    prompt, completion, spans = (_lists(table, name) for name in ("prompt", "completion", "spans"))
    if len(examples) != table.num_rows or len(set(spans.lengths.tolist())) != 1:
        raise ValueError(f"{table.num_rows} rows for {len(examples)} examples")
    return TokenTable(examples, prompt, completion, spans.values.reshape(len(examples), -1))


def _lists(table: "pa.Table", name: str) -> Lists:
    column = table.column(name).chunk(0)
    # Copies: the file may change while its memory is mapped.
    return Lists(np.array(column.values, np.int32), np.array(column.offsets, np.int64))


def checksum(table: TokenTable) -> int:
    """Compute the CRC-32 of all tokens and spans."""
    parts = (*table.prompt, *table.completion, table.spans)
    value = 0
    for part in parts:
        value = zlib.crc32(np.ascontiguousarray(part).tobytes(), value)
    return value

"""Conversion of encoded questions to padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from promptstage.datamodules.classes import LabelWords
from promptstage.datamodules.encoding import IGNORED, Batch, Tokens, shifted
from promptstage.datamodules.token_table import Encoded, TokenTable


@dataclass(frozen=True)
class Collate:
    """Conversion of encoded examples to a :class:`Batch`, picklable for worker processes.

    Attributes:
        omitted: a first token to remove from prompts, since the model prepends it to its soft prompt.
        kind: kind of answer, as in :class:`Batch`.
        label_words: label words of the data set; None: none.
    """

    pad_token_id: int
    dataset: str
    max_new_tokens: int
    stop: tuple[str, ...]
    omitted: int | None = None
    kind: str | None = None
    label_words: LabelWords | None = None

    def __call__(self, rows: Sequence[Encoded]) -> Batch:
        table = TokenTable.of(rows)
        if self.omitted is not None:
            table = table.without_first(self.omitted)
        examples = list(table.examples)
        return Batch(
            examples,
            self._gold(table),
            self._prompt(table),
            self.dataset,
            self.max_new_tokens,
            self.stop,
            self.kind,
            None if self.label_words is None else self.label_words.classes(examples),
        )

    def _gold(self, table: TokenTable) -> Tokens:
        starts = table.prompt.lengths
        ends = starts + table.completion.lengths
        width = int(ends.max(initial=0))
        ids = np.full((len(table), width), self.pad_token_id)
        labels = np.full((len(table), width), IGNORED)
        rows, columns = table.prompt.places()
        ids[rows, columns] = table.prompt.values
        rows, columns = table.completion.places()
        columns = columns + starts[rows]
        ids[rows, columns] = labels[rows, columns] = table.completion.values
        mask = np.arange(width) < ends[:, None]
        spans = torch.from_numpy(table.spans).long()
        rationale = torch.from_numpy(np.stack([starts, ends - 1], axis=1))
        return _tokens(ids, mask, labels, spans[:, :2], rationale, spans[:, 2:])

    def _prompt(self, table: TokenTable) -> Tokens:
        lengths = table.prompt.lengths
        width = int(lengths.max(initial=0))
        starts = width - lengths
        ids = np.full((len(table), width), self.pad_token_id)
        rows, columns = table.prompt.places()
        ids[rows, columns + starts[rows]] = table.prompt.values
        mask = np.arange(width) >= starts[:, None]
        by = torch.from_numpy(starts)[:, None]
        spans = torch.from_numpy(table.spans).long()
        none = torch.full((len(table), 2), width)
        labels = np.full(ids.shape, IGNORED)
        tokens = _tokens(ids, mask, labels, spans[:, :2] + by, none, spans[:, 2:])
        tokens.demonstrations = shifted(tokens.demonstrations, by[:, :, None])
        return tokens


def _tokens(
    ids: NDArray[np.int64],
    mask: NDArray[np.bool_],
    labels: NDArray[np.int64],
    question: Tensor,
    rationale: Tensor,
    demonstrations: Tensor,
) -> Tokens:
    """Make a batch of arrays (B, n), and of demonstrations (B, 4 k)."""
    return Tokens(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        labels=torch.from_numpy(labels),
        question=question,
        rationale=rationale,
        demonstrations=demonstrations.reshape(len(ids), demonstrations.shape[1] // 4, 4),
    )

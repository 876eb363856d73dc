"""Demonstrations of a prompt as a context that is run once, whole, isolated or compressed.

"Label words are anchors: an information flow perspective for understanding in-context learning", Wang et al.,
EMNLP 2023, arXiv:2305.14160, §2.2 and §3.2.
"""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.backbone.context_states import ContextStates, record_context
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.isolation import Isolation
from promptstage.lightning_modules.backbone.next_tokens import next_token_logits
from promptstage.lightning_modules.backbone.prefix import Prefix


@dataclass(frozen=True)
class Context:
    """Demonstrations that some examples of a batch share, up to the last one's label word.

    Attributes:
        ids: their n tokens.
        rows: the examples, by row of the batch.
        labels: column of each demonstration's label token, the first one of its label word.
        words: columns of each demonstration's label word.
        questions: columns of each demonstration's text.
    """

    ids: tuple[int, ...]
    rows: list[int]
    labels: list[int]
    words: list[list[int]]
    questions: list[list[int]]

    @property
    def formatting(self) -> list[int]:
        """Columns of the template: neither text nor label word."""
        content = {column for span in (*self.words, *self.questions) for column in span}
        return [column for column in range(len(self.ids)) if column not in content]

    def anchors(self) -> list[int]:
        """Return the columns of formatting and label words."""
        return sorted([*self.formatting, *(column for span in self.words for column in span)])

    def random_anchors(self, draw: int) -> list[int]:
        """Return the columns of formatting and, for each label word, as many random ones of its text."""
        generator = self._generator(f"anchors {draw}")
        chosen = [
            column
            for word, text in zip(self.words, self.questions, strict=True)
            for column in generator.sample(text, min(len(word), len(text)))
        ]
        return sorted([*self.formatting, *chosen])

    def random_rows(self) -> list[int]:
        """Return as many random columns as there are label tokens, neither of label words nor the first."""
        words = {column for span in self.words for column in span}
        others = [column for column in range(1, len(self.ids)) if column not in words]
        return sorted(self._generator("rows").sample(others, min(len(self.labels), len(others))))

    def _generator(self, name: str) -> random.Random:
        """Return a generator that depends on the context alone, so that all ranks draw the same."""
        return random.Random(f"{name} of {self.ids}")


def contexts_of(tokens: Tokens) -> list[Context]:
    """Group the examples of a batch, padded on the right, by their demonstrations."""
    shared: dict[tuple[int, ...], Context] = {}
    for row, spans in enumerate(tokens.demonstrations.tolist()):
        own = [span for span in spans if any(span)]
        ids = tuple(tokens.input_ids[row, : max(span[3] for span in own)].tolist())
        if ids not in shared:
            words = [list(range(*span[2:])) for span in own]
            questions = [list(range(*span[:2])) for span in own]
            shared[ids] = Context(ids, [], [span[2] for span in own], words, questions)
        shared[ids].rows.append(row)
    return list(shared.values())


class ContextRuns:
    """Passes over examples after a context that is run once; results of the latest context are cached.

    Args:
        backbone: the model.
        prefix: soft prompt before the context; None: none.
    """

    def __init__(self, backbone: FrozenModel, prefix: Prefix | None) -> None:
        self.backbone, self.prefix = backbone, prefix
        self._ids: tuple[int, ...] = ()
        self._prefixes: dict[Hashable, Prefix] = {}
        self._states: ContextStates | None = None

    def compressed(self, context: Context, columns: Sequence[int]) -> Prefix:
        """Return the prefix that some columns of a context make."""

        def make() -> Prefix:
            if self._states is None:
                self._states = record_context(self.backbone, self._tensor(context), self.prefix)
            return self._states.prefix_of(columns)

        return self._cached(context, tuple(columns), make)

    def isolated(self, context: Context, layers: Sequence[int], rows: Sequence[int]) -> Prefix:
        """Return the prefix of a whole context in which rows are isolated in some layers."""

        def make() -> Prefix:
            hook = Isolation(layers, torch.tensor([list(rows)], device=self.backbone.embedding.device))
            return record_context(self.backbone, self._tensor(context), self.prefix, hook).prefix_of()

        return self._cached(context, (tuple(layers), tuple(rows)), make)

    def _cached(self, context: Context, key: Hashable, make: Callable[[], Prefix]) -> Prefix:
        if context.ids != self._ids:
            self._ids, self._prefixes, self._states = context.ids, {}, None
        if key not in self._prefixes:
            self._prefixes[key] = make()
        return self._prefixes[key]

    def _tensor(self, context: Context) -> Tensor:
        return torch.tensor([context.ids], device=self.backbone.embedding.device)

    def logits(self, tokens: Tokens, context: Context, prefix: Prefix) -> Tensor:
        """Compute the logits (rows, vocabulary) after the examples of a context, with its prefix."""
        after, lengths = tokens.input_ids[context.rows, len(context.ids) :], self._lengths(tokens, context)
        return next_token_logits(self.backbone, after[:, : int(lengths.max())], lengths, prefix)

    def logits_as_text(self, tokens: Tokens, context: Context, columns: Sequence[int]) -> Tensor:
        """Compute the same logits after some tokens of the context as text, with consecutive positions."""
        text = tokens.input_ids.new_tensor([context.ids[column] for column in columns])
        after, lengths = tokens.input_ids[context.rows, len(context.ids) :], self._lengths(tokens, context)
        joined = torch.cat([text.expand(len(after), -1), after[:, : int(lengths.max())]], dim=1)
        return next_token_logits(self.backbone, joined, len(text) + lengths, self.prefix)

    @staticmethod
    def _lengths(tokens: Tokens, context: Context) -> Tensor:
        return tokens.attention_mask[context.rows].sum(1) - len(context.ids)

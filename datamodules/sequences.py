"""Data set of generated sequences of digits, with new training examples in every epoch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.sequence_tasks import (
    LONGEST,
    SHORTEST,
    TASKS,
    Digits,
    sample_sequences,
    solve,
)
from promptstage.datamodules.sources import Row
from promptstage.datamodules.token_table import Lists, TokenTable
from promptstage.utilities.checks import check_between
from promptstage.utilities.errors import UserError, choose

SIZES = {"train": 16_000, "validation": 500, "test": 1_000}
MOST = 1_000_000


class Sequences(ReasoningDataModule):
    """Sequences of digits 0 to 7 and their answers, such as ``2 6 0 1`` and ``0 1 2 6``, from a seed.

    Every epoch has new training sequences, a function of seed and epoch. Validation and test sequences do not
    depend on the seed and never occur in training. A generation is correct if all of it equals the answer.

    Args:
        tasks: one or more of ascending, descending, plus_one, plus_two, ascending_plus_one and histogram (the
            number of times that each element occurs); with several, each sequence has one, which its text
            does not name.
        length: number of digits, 4 to 10.
        template: as in :class:`~promptstage.datamodules.base.ReasoningDataModule`; default: the question
            alone.
        max_new_tokens: generation limit, in tokens.
        train_size: number of training sequences of an epoch; default: 16,000.
        validation_size: number of validation sequences; default: 500.
        test_size: number of test sequences; default: 1,000.

    Raises:
        UserError: if a task is unknown, or a number is out of range.
    """

    answer_kind = r"regex:(?s)\A\s*(.*\S)\s*\Z"

    def __init__(
        self,
        *,
        tasks: list[str] = ["ascending"],  # noqa: B006  # never changed
        length: int = 10,
        template: str = "{question}",
        max_new_tokens: int = 24,
        **kwargs: Any,
    ) -> None:
        if not tasks:
            raise UserError(f"tasks must name at least one of {', '.join(TASKS)}, got []")
        self.tasks = [choose("task", task, TASKS) for task in tasks]
        check_between({"length": length}, SHORTEST, LONGEST)
        self.length = length
        self.name = "-".join(self.tasks)
        super().__init__(
            source="generated",
            revision=None,
            on_bad_row="raise",
            template=template,
            max_new_tokens=max_new_tokens,
            **kwargs,
        )
        if self.perturbation != "none":
            raise UserError(
                f"perturbation must be none for generated sequences, got {self.perturbation}: their answers "
                "depend on every digit"
            )
        for split, size in self.sizes.items():
            if size is not None and size > MOST:
                raise UserError(f"{split}_size must be <= {MOST:,} for generated sequences, got {size:,}")

    def folder(self) -> None:
        """Return None: sequences are not read from files."""

    def has_validation(self) -> bool:
        """Return True: a sequence's split is a function of its digits."""
        return True

    def rows(self, split: str) -> list[Row]:
        """Generate the sequences of a split; for training those of the first epoch."""
        digits, task, answers = self._sample(split)
        texts = zip(_texts(digits), _texts(answers), task, strict=True)
        return [
            Row({"question": question, "answer": answer, "task": self.tasks[i]}, self.name)
            for question, answer, i in texts
        ]

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """Return the example of a generated sequence."""
        return _example(row["task"], split, index, row["question"], row["answer"])

    def epoch_rows(self, epoch: int) -> TokenTable:
        """Generate and tokenize the training sequences of an epoch.

        Raises:
            UserError: if the tokens of a digit depend on other digits.
        """
        first = super().epoch_rows(epoch)
        if epoch == 0:
            return first
        digits, task, answers = self._sample("train", epoch)
        prompt, completion = (_digit_table(lists, self.length) for lists in self._digit_rows())
        count = len(first)
        examples = _Examples(digits[:count], answers[:count], task[:count], self.tasks)
        table = TokenTable(
            examples,
            _filled(*prompt, digits[:count]),
            _filled(*completion, answers[:count]),
            np.repeat(first.spans[:1], count, axis=0),
        )
        if table.lengths != first.lengths:
            raise UserError(_TOKENS)
        return table

    def _sample(self, split: str, epoch: int = 0) -> tuple[Digits, Digits, Digits]:
        """Return sequences, the number of the task of each, and their answers."""
        seed = self.seed if split == "train" else 0
        digits = sample_sequences(split, self.sizes[split] or SIZES[split], self.length, seed, epoch)
        task, answers = solve(self.tasks, digits, split, seed, epoch)
        return digits, task, answers

    def _digit_rows(self) -> tuple[Lists, Lists]:
        """Return the tokens of prompts and completions that repeat one digit, 0 to 9."""
        texts = _texts(np.repeat(np.arange(10)[:, None], self.length, axis=1))
        rows = self._encode([_example("digit", "train", i, text, text) for i, text in enumerate(texts)])
        return rows.prompt, rows.completion


_TOKENS = (
    "Sequences needs a tokenizer by which the tokens of a digit do not depend on other digits: use another "
    "template or backbone"
)


class _Examples(Sequence[Example]):
    """Examples of an epoch, made when they are read."""

    def __init__(self, digits: Digits, answers: Digits, task: Digits, tasks: list[str]) -> None:
        self.digits, self.answers, self.task, self.tasks = digits, answers, task, tasks

    def __len__(self) -> int:
        return len(self.digits)

    @overload
    def __getitem__(self, i: int) -> Example: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[Example]: ...

    def __getitem__(self, i: int | slice) -> Example | Sequence[Example]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        question, answer = (next(_texts(rows[i : i + 1])) for rows in (self.digits, self.answers))
        return _example(self.tasks[self.task[i]], "train", i, question, answer)


def _example(task: str, split: str, index: int, question: str, answer: str) -> Example:
    return Example(f"{task}/{split}/{index}", question, "", answer, answer)


def _texts(digits: Digits) -> Iterator[str]:
    return (" ".join(map(str, row)) for row in digits.tolist())


def _digit_table(lists: Lists, length: int) -> tuple[Digits, Digits]:
    """Return the columns of the digits in rows of tokens, and the token of each digit in each of them.

    Args:
        lists: rows in which one digit, 0 to 9, is repeated.

    Raises:
        UserError: if rows have different lengths, or other columns depend on the digit, too.
    """
    if len(set(lists.lengths.tolist())) != 1:
        raise UserError(_TOKENS)
    rows = lists.values.reshape(10, -1).astype(np.int64)
    (columns,) = (rows != rows[0]).any(axis=0).nonzero()
    if len(columns) != length:
        raise UserError(_TOKENS)
    return columns, rows


def _filled(columns: Digits, rows: Digits, digits: Digits) -> Lists:
    """Return rows of tokens with the given digits (n, length)."""
    values = np.repeat(rows[:1], len(digits), axis=0)
    values[:, columns] = rows[digits, columns]
    return Lists.of(values.ravel(), np.full(len(digits), rows.shape[1]))

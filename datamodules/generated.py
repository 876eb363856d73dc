"""Generated tasks of :mod:`promptstage.datamodules.tasks` as a data set."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example, worked_answer
from promptstage.datamodules.sources import Row
from promptstage.datamodules.tasks import TASKS, questions
from promptstage.utilities.errors import UserError, choose

SIZES = {"train": 2000, "validation": 200, "test": 500}
MOST_QUESTIONS = 1_000_000  # all are generated at setup and held in memory
LONGEST_QUESTION = 1_000  # digits, terms, symbols, letters or words


class Generated(ReasoningDataModule):
    """Questions made from a seed: no files, no download.

    Validation and test questions are the same for every seed, and never among the training questions.

    Args:
        task: addition, series_sum, symbolic_sum, letter_reversal or last_letter.
        lengths: shortest and longest question, both included: digits of the larger number, terms, symbols,
            letters or words; default: the task's own.
        ood_lengths: the same for the out-of-distribution test.
        test_on: lengths of the test questions: ``in`` (``lengths``) or ``ood`` (``ood_lengths``).
        train_size: how many training questions; default: 2,000, or all there are if fewer.
        validation_size: how many validation questions; default: 200, or all there are if fewer.
        test_size: how many test questions; default: 500, or all there are if fewer.
    """

    def __init__(
        self,
        *,
        task: str = "addition",
        lengths: list[int] | None = None,
        ood_lengths: list[int] | None = None,
        test_on: str = "in",
        max_new_tokens: int = 128,
        **kwargs: Any,
    ) -> None:
        self.name = choose("task", task, TASKS)
        self.task = TASKS[task]
        self.lengths = _range("lengths", lengths, self.task.lengths)
        self.ood_lengths = _range("ood_lengths", ood_lengths, self.task.ood_lengths)
        self.test_on = choose("test_on", test_on, ("in", "ood"))
        super().__init__(
            source="generated",
            revision=None,
            on_bad_row="raise",
            max_new_tokens=max_new_tokens,
            **kwargs,
        )
        if self.perturbation != "none":
            raise UserError(
                f"perturbation must be none for generated questions, got {self.perturbation}: their answers "
                "depend on every letter and digit"
            )
        for split, size in self.sizes.items():
            if size is not None and size > MOST_QUESTIONS:
                raise UserError(
                    f"{split}_size must be <= {MOST_QUESTIONS:,} for generated questions, got {size:,}"
                )

    def folder(self) -> None:
        """None: questions are not read from files."""

    def has_validation(self) -> bool:
        """Always: questions are told apart by their text."""
        return True

    def rows(self, split: str) -> list[Row]:
        """As many new questions as the size of ``split``."""
        lengths = self.ood_lengths if (split, self.test_on) == ("test", "ood") else self.lengths
        drawn = questions(self.task, split, lengths, self.seed if split == "train" else 0)
        size = self.sizes[split]
        rows: list[Row] = []
        try:
            for text in islice(drawn, size or SIZES[split]):
                rows.append(Row({"question": text}, self.name))
        except ValueError as error:
            if size or not rows:
                raise UserError(str(error)) from error
            rank_zero_info(f"{self.name}: all {len(rows)} different {split} questions there are")
        return rows

    def parse(self, row: Mapping[str, Any], split: str, index: int) -> Example:
        """A generated question, worked out."""
        solution = self.task.solve(row["question"])
        name = "ood" if (split, self.test_on) == ("test", "ood") else split
        return Example(
            id=f"{self.name}/{name}/{index}",
            question=row["question"],
            rationale=solution.rationale,
            answer=solution.answer,
            completion=worked_answer(solution.rationale, solution.answer),
        )


def _range(what: str, given: Sequence[int] | None, default: tuple[int, int]) -> tuple[int, int]:
    if given is None:
        return default
    if len(given) != 2 or not 1 <= given[0] <= given[1] <= LONGEST_QUESTION:
        raise UserError(
            f"{what} is {list(given)}: give the shortest and the longest, such as {list(default)}, at most "
            f"{LONGEST_QUESTION}"
        )
    return given[0], given[1]

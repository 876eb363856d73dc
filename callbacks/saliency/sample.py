"""Balanced sample of a split: its first correct and its first incorrect answers (DPC §2.2.2)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.examples import gather_by_id
from promptstage.datamodules.encoding import Batch, join


class Candidate(NamedTuple):
    """Graded example of this rank.

    Attributes:
        batch: the example as a batch of one.
        answer: token ids of its generation; None if the label is the gold rationale.
    """

    id: str
    correct: bool
    batch: Batch
    answer: list[int] | None


class Graded(NamedTuple):
    """Part of a candidate that all ranks need."""

    id: str
    correct: bool


class BalancedSample:
    """Sample of the first ``number`` correct and the first ``number`` incorrect answers of a split.

    A rank stores at most ``number`` candidates of each grade: its part of the sample is always among its own
    first ones. The sample does not depend on how examples are sharded.

    Args:
        number: number of correct, and of incorrect, examples.
        ids: ids of the split, in order.
    """

    def __init__(self, number: int, ids: Sequence[str]) -> None:
        self.number, self.ids = number, list(ids)
        self._places = {name: place for place, name in enumerate(self.ids)}
        self._candidates: dict[bool, list[Candidate]] = {True: [], False: []}

    def add(
        self, batch: Batch, correct: Mapping[str, bool | None], answers: Mapping[str, list[int]] | None
    ) -> None:
        """Add the graded examples of a batch to the candidates."""
        for row, example in enumerate(batch.examples):
            grade = correct.get(example.id)
            if grade is None:
                continue
            answer = None if answers is None else answers[example.id]
            same = self._candidates[grade]
            same.append(Candidate(example.id, grade, batch.select([row]), answer))
            same.sort(key=lambda candidate: self._places[candidate.id])
            del same[self.number :]

    def choose(self) -> list[str]:
        """Return the ids of the sample in the order of the split; collective over all ranks."""
        own = [Graded(example.id, example.correct) for same in self._candidates.values() for example in same]
        graded = gather_by_id(own, self.ids)
        right, wrong = (
            [example.id for example in graded if example.correct == mark][: self.number]
            for mark in (True, False)
        )
        counts = {"correct": len(right), "incorrect": len(wrong)}
        fewer = [f"{count} {kind}" for kind, count in counts.items() if count < self.number]
        if fewer:
            rank_zero_info(
                f"saliency: balanced is {self.number}, but there are only {' and '.join(fewer)} answers"
            )
        return sorted(right + wrong, key=self._places.__getitem__)

    def batches(
        self, chosen: Sequence[str], size: int
    ) -> Iterator[tuple[Batch, dict[str, bool | None], dict[str, list[int]] | None]]:
        """Return this rank's chosen examples as batches, with grades and answers by id."""
        ids = set(chosen)
        own = [example for same in self._candidates.values() for example in same if example.id in ids]
        own.sort(key=lambda candidate: self._places[candidate.id])
        for start in range(0, len(own), size):
            part = own[start : start + size]
            answers = {example.id: example.answer for example in part if example.answer is not None}
            grades: dict[str, bool | None] = {example.id: example.correct for example in part}
            yield join([example.batch for example in part]), grades, answers or None

"""A balanced sample of a split: its first correct and its first incorrect answers (DPC §2.2.2)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.examples import gather_by_id
from promptstage.datamodules.encoding import Batch, join


class Candidate(NamedTuple):
    """An answered example of this process.

    Attributes:
        batch: the example alone.
        answer: its generation; None where the label is the gold rationale.
    """

    id: str
    correct: bool
    batch: Batch
    answer: list[int] | None


class Graded(NamedTuple):
    """What all processes need to know of a candidate."""

    id: str
    correct: bool


class BalancedSample:
    """Keeps answered examples until all of a split are graded, then chooses by the order of the split.

    No process keeps more than ``number`` of either kind: what the whole sample has of its examples is among
    its own first ones. The choice does not depend on how examples are sharded.

    Args:
        number: correct examples, and incorrect ones.
        ids: of the split, in order.
    """

    def __init__(self, number: int, ids: Sequence[str]) -> None:
        self.number, self.ids = number, list(ids)
        self._places = {name: place for place, name in enumerate(self.ids)}
        self._kept: dict[bool, list[Candidate]] = {True: [], False: []}

    def add(
        self, batch: Batch, correct: Mapping[str, bool | None], answers: Mapping[str, list[int]] | None
    ) -> None:
        """Keep a batch's examples that have a grade."""
        for row, example in enumerate(batch.examples):
            grade = correct.get(example.id)
            if grade is None:
                continue
            answer = None if answers is None else answers[example.id]
            kept = self._kept[grade]
            kept.append(Candidate(example.id, grade, batch.select([row]), answer))
            kept.sort(key=lambda candidate: self._places[candidate.id])
            del kept[self.number :]

    def choose(self) -> list[str]:
        """Ids of the sample, in the order of the split; every process of the group calls it."""
        own = [Graded(one.id, one.correct) for kept in self._kept.values() for one in kept]
        graded = gather_by_id(own, self.ids)
        right, wrong = (
            [one.id for one in graded if one.correct == mark][: self.number] for mark in (True, False)
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
        """This process's chosen examples as batches, with grades and answers by id."""
        wanted = set(chosen)
        own = [one for kept in self._kept.values() for one in kept if one.id in wanted]
        own.sort(key=lambda candidate: self._places[candidate.id])
        for start in range(0, len(own), size):
            part = own[start : start + size]
            answers = {one.id: one.answer for one in part if one.answer is not None}
            yield join([one.batch for one in part]), {one.id: one.correct for one in part}, answers or None

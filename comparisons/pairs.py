"""Rows of a comparison, paired question by question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptstage.comparisons.results import Answer, Row
from promptstage.utilities.json_text import dump_json


@dataclass(frozen=True)
class Change:
    """Example that two tests grade differently."""

    seed: int | None
    before: Answer
    after: Answer

    def line(self) -> dict[str, Any]:
        """Return a line of ``pairs.jsonl``."""
        return {
            "id": self.after.id,
            "seed": self.seed,
            "change": "fixed" if self.after.correct else "broken",
            "reference": self.after.reference,
            "before": self.before.prediction,
            "after": self.after.prediction,
            "question": self.after.question,
            "before_generation": self.before.generation,
            "after_generation": self.after.generation,
        }


@dataclass(frozen=True)
class Pair:
    """Two rows, restricted to their common questions and seeds.

    Attributes:
        before: reference row.
        after: row that is compared with it.
        seeds: common seeds.
        ids: examples that all these runs have in common.
    """

    before: Row
    after: Row
    seeds: list[int | None]
    ids: list[str]

    @classmethod
    def of(cls, before: Row, after: Row, seeds: Sequence[int | None] | None = None) -> "Pair | None":
        """Pair two rows; None if they have no seed or example in common, or test different data.

        Data are different if an example has another reference answer, as with questions of other lengths.

        Args:
            seeds: seeds to use; None: all common ones.
        """
        common = [seed for seed in after.runs if seed in before.runs and (seeds is None or seed in seeds)]
        if not common:
            return None
        first, *others = [row.runs[seed].answers for seed in common for row in (before, after)]
        ids = [name for name in first if all(name in other for other in others)]
        if any(first[name].reference != other[name].reference for name in ids for other in others):
            return None
        return cls(before, after, common, ids) if ids else None

    @cached_property
    def grades(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Grades of both rows, (seeds, ids) each."""
        return self.before.grades(self.ids, self.seeds), self.after.grades(self.ids, self.seeds)

    @cached_property
    def loss_differences(self) -> NDArray[np.float64]:
        """Difference in validation loss of each seed for which both tests state it."""
        before, after = (row.validation("validation_loss", self.seeds) for row in (self.before, self.after))
        differences: NDArray[np.float64] = after - before
        return differences[np.isfinite(differences)]

    def changes(self) -> Iterator[Change]:
        """Yield the examples that are graded differently, seed by seed, in test order."""
        for seed in self.seeds:
            before, after = self.before.runs[seed].answers, self.after.runs[seed].answers
            for name in self.ids:
                if before[name].correct != after[name].correct:
                    yield Change(seed, before[name], after[name])


def write_pairs(pairs: Sequence[Pair]) -> str:
    """Return the lines of ``pairs.jsonl``: every example that two compared rows grade differently."""
    lines = [
        {"row": pair.after.name, "against": pair.before.name, **change.line()}
        for pair in pairs
        for change in pair.changes()
    ]
    return "".join(dump_json(line) + "\n" for line in lines)

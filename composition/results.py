"""Results of an evaluation in a run: summary and records."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from promptstage.composition.records import find_records, read_records
from promptstage.lightning_modules.functional.statistics import wilson_interval
from promptstage.utilities.reading import read_typed


class Accuracy(float):
    """Share of correct answers with its 95 % Wilson interval.

    Attributes:
        low, high: bounds of the interval.

    >>> Accuracy.of(31, 1000)
    0.031 (95 % interval 0.022 to 0.044)
    """

    low: float
    high: float

    @classmethod
    def of(cls, correct: int, total: int) -> "Accuracy":
        """Return the accuracy of ``correct`` of ``total`` answers."""
        accuracy = cls(correct / total)
        accuracy.low, accuracy.high = wilson_interval(correct, total)
        return accuracy

    def __repr__(self) -> str:
        return f"{float(self):.3f} (95 % interval {self.low:.3f} to {self.high:.3f})"

    __str__ = __repr__


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Results of a test or validation.

    Attributes:
        folder: folder with all files of the evaluation.
        summary: counts, accuracy, tokens and seconds.
        records: a dictionary for each question, in the order of the split; ``pandas.DataFrame(records)``
            makes a table of them.
    """

    folder: Path
    summary: dict[str, Any]
    records: list[dict[str, Any]]

    def __repr__(self) -> str:
        return f"Evaluation({str(self.folder)!r}: {len(self.records)} records, accuracy {self.accuracy})"

    @property
    def accuracy(self) -> Accuracy:
        """Share of correct answers with its interval."""
        return Accuracy.of(sum(record["correct"] for record in self.records), len(self.records))

    @property
    def figures(self) -> list[Path]:
        """Paths of the figures that callbacks drew."""
        return sorted(self.folder.glob("*.png"))


def read_evaluation(folder: str | PathLike[str]) -> Evaluation:
    """Read the results in a folder, or those of a run's newest complete test.

    Raises:
        UserError: if there are none, or a file is damaged.
    """
    path = find_records(str(folder))
    summary = read_typed(dict[str, Any], path.with_name("summary.json"), "summary")
    return Evaluation(path.parent, summary, read_records(path))

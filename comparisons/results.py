"""Results of finished tests, and rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from promptstage.utilities.checks import check_between, check_maximum, check_minimum
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import read_typed, read_typed_lines

Measure = Literal["validation_loss", "validation_accuracy"]
RECORDS_LIMIT = 1 << 30  # bytes of a test's records


@dataclass(frozen=True)
class Summary:
    """Fields of ``summary.json`` that a table shows."""

    trained_parameters: int
    examples: int
    correct: int
    questions: int = 0  # in the whole split; 0 in tests of earlier versions
    selected_by: str | None = None  # logged value that selected the checkpoint; None if nothing did
    validation_loss: float | None = None  # of the validation that selected the checkpoint, in nats per token
    validation_accuracy: float | None = None

    def __post_init__(self) -> None:
        check_minimum({"examples": self.examples}, 1)
        check_minimum({"trained_parameters": self.trained_parameters}, 0)
        check_between({"correct": self.correct}, 0, self.examples)
        check_minimum({"validation_loss": self.validation_loss}, 0)
        check_between({"validation_accuracy": self.validation_accuracy}, 0, 1)
        check_maximum({"examples": self.examples}, self.questions or self.examples, "questions")


@dataclass(frozen=True)
class Stages:
    """Field of ``partition.json`` that a table shows."""

    stages_as_runs: str


@dataclass(frozen=True)
class Answer:
    """Fields of a line of ``results.jsonl`` that a comparison of two tests shows."""

    id: str
    question: str
    generation: str
    prediction: str | None
    reference: str
    correct: bool


@dataclass(frozen=True)
class Evaluation:
    """Finished test.

    Attributes:
        folder: folder with ``summary.json`` and ``results.jsonl``.
        stages: stages of its prompt as runs of layers; – without stages.
        seconds: durations of ``fit`` and ``test``, as far as they are known.
    """

    folder: Path
    stages: str = "–"
    seconds: Mapping[str, float | None] = field(default_factory=dict)

    @cached_property
    def summary(self) -> Summary:
        """Summary of the test.

        Raises:
            UserError: if it cannot be read.
        """
        return read_typed(Summary, self.folder / "summary.json", "summary")

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """Graded examples by id.

        Raises:
            UserError: if they cannot be read, an id is repeated, or the counts differ from the summary.
        """
        file = self.folder / "results.jsonl"
        answers = read_typed_lines(Answer, file, "records", RECORDS_LIMIT)
        by_id = {answer.id: answer for answer in answers}
        if len(by_id) < len(answers):
            raise UserError(f"records {file} have the id of an example more than once")
        correct = sum(answer.correct for answer in answers)
        if (len(answers), correct) != (self.summary.examples, self.summary.correct):
            raise UserError(
                f"records {file} have {correct} of {len(answers)} correct answers, but the summary has "
                f"{self.summary.correct} of {self.summary.examples}"
            )
        return by_id


@dataclass(frozen=True)
class Row:
    """Row of a table.

    Attributes:
        name: name in the table.
        runs: finished tests by seed; None is the seed of a single one.
        against: name of the row that it is compared with, or None.
        group: rows of a group have the same color in a figure.
        label: label in a figure, within the group.
    """

    name: str
    runs: dict[int | None, Evaluation]
    against: str | None = None
    group: str = ""
    label: str = ""

    def run_name(self, seed: int | None) -> str:
        """Return the name of the run with a seed."""
        return self.name if seed is None else f"{self.name}, seed {seed}"

    def validation(self, measure: Measure, seeds: Sequence[int | None]) -> NDArray[np.float64]:
        """Return a validation result of each seed, (seeds,); NaN where a test does not state it."""
        values = [getattr(self.runs[seed].summary, measure) for seed in seeds]
        return np.array([np.nan if value is None else value for value in values])

    def grades(self, ids: Sequence[str], seeds: Sequence[int | None]) -> NDArray[np.bool_]:
        """Return whether each example is answered correctly, (seeds, ids)."""
        return np.array([[self.runs[seed].answers[name].correct for name in ids] for seed in seeds])

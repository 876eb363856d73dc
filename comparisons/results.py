"""Results of finished tests as rows of a comparison."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptstage.utilities.checks import check_between, check_maximum, check_minimum
from promptstage.utilities.errors import UserError, printable
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import read_typed, read_typed_lines

RECORDS = "compare.json"  # in a comparison's folder: flags and durations of its runs
TESTED = "tested"  # entry of these records: name of the folder of a run's test
RECORDS_LIMIT = 1 << 30  # bytes of a test's records


@dataclass(frozen=True)
class Summary:
    """Fields of ``summary.json`` that a table shows."""

    trained_parameters: int
    examples: int
    correct: int
    questions: int = 0  # in the whole split; 0 in tests of earlier versions

    def __post_init__(self) -> None:
        check_minimum({"examples": self.examples}, 1)
        check_minimum({"trained_parameters": self.trained_parameters}, 0)
        check_between({"correct": self.correct}, 0, self.examples)
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

    def grades(self, ids: Sequence[str], seeds: Sequence[int | None]) -> NDArray[np.bool_]:
        """Return whether each example is answered correctly, (seeds, ids)."""
        return np.array([[self.runs[seed].answers[name].correct for name in ids] for seed in seeds])


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

    def changes(self) -> Iterator[Change]:
        """Yield the examples that are graded differently, seed by seed, in test order."""
        for seed in self.seeds:
            before, after = self.before.runs[seed].answers, self.after.runs[seed].answers
            for name in self.ids:
                if before[name].correct != after[name].correct:
                    yield Change(seed, before[name], after[name])


def finished_tests(run: Path) -> list[Path]:
    """Return the folders of a run's finished tests."""
    return sorted(file.parent for file in run.glob("test*/summary.json"))


def finished_test(run: Path, name: Any = None) -> Path | None:
    """Return the folder of a run's finished test; None if there is none.

    Args:
        name: name of that folder, if it is known.

    Raises:
        UserError: if there are several, which may have been run with different options.
    """
    tests = finished_tests(run)
    tests = [test for test in tests if test.name == name] or tests
    if len(tests) > 1:
        names = ", ".join(test.name for test in tests)
        raise UserError(
            f"run {run} has {len(tests)} finished tests ({names}): give the folder of one of them"
        )
    return tests[0] if tests else None


def stages_of(run: Path) -> str:
    """Return a run's stages as runs of layers; – without stages."""
    file = run / "partition.json"
    if not file.exists():
        return "–"
    return printable(read_typed(Stages, file, "partition file").stages_as_runs)


def finished_rows(arguments: Sequence[str], against: str | None) -> list[Row]:
    """Read the rows of finished runs.

    Args:
        arguments: FOLDER or NAME=FOLDER each, of a run, one of its tests, or a comparison, all rows of which
            are read.
        against: name of the row that all others are compared with; None: no comparison.

    Raises:
        UserError: if a folder does not exist, has no finished test or several, or two rows have the same
            name.
    """
    named = [_named(argument) for argument in arguments]
    several = sum((folder / RECORDS).exists() for _, folder in named) > 1
    rows: list[Row] = []
    for name, folder in named:
        if (folder / RECORDS).exists():
            rows += _rows_of_comparison(name, folder, several)
        else:
            rows.append(Row(name, {None: _evaluation(folder)}, label=name))
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two rows have the name '{name}': give other names as NAME=FOLDER")
    if against is not None:
        rows = [
            Row(row.name, row.runs, None if row.name == against else against, row.group, row.label)
            for row in rows
        ]
    return rows


def _named(argument: str) -> tuple[str, Path]:
    name, equals, folder = argument.partition("=")
    path = Path(folder if equals and not os.path.exists(argument) else argument)
    if not os.path.isdir(path):  # False for names that the system refuses, where Path.is_dir raises
        raise UserError(f"folder {path} does not exist: FOLDER or NAME=FOLDER of a finished run is needed")
    own = name if equals and path == Path(folder) else ""
    return printable(own or path.resolve().name), path


def _evaluation(folder: Path) -> Evaluation:
    """Find the finished test of a folder, which is a run's or a test's own."""
    test = folder if (folder / "summary.json").exists() else finished_test(folder)
    if test is None:
        raise UserError(f"run {folder} has no finished test: run 'promptstage test --ckpt_path {folder}'")
    return Evaluation(test, stages_of(test.parent))


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Read ``compare.json``: flags and durations of each run.

    Raises:
        UserError: if it is damaged.
    """
    return read_typed(dict[str, dict[str, Any]], folder / RECORDS, "comparison's records")


def _rows_of_comparison(name: str, folder: Path, prefixed: bool) -> list[Row]:
    runs: dict[str, dict[int | None, Evaluation]] = {}
    for run_name, record in read_records(folder).items():
        match = re.fullmatch(r"(.*), seed (-?\d{1,20})", run_name)
        row, seed = (match[1], int(match[2])) if match else (run_name, None)
        row = printable(row)
        run = folder / folder_name(run_name)
        test = finished_test(run, record.get(TESTED))
        if test is not None:
            seconds = {part: record[part] for part in ("fit", "test") if _is_duration(record.get(part))}
            runs.setdefault(row, {})[seed] = Evaluation(test, stages_of(run), seconds)
    if not runs:
        raise UserError(f"comparison {folder} has no finished test")
    return [Row(f"{name}: {row}" if prefixed else row, tests, None, name, row) for row, tests in runs.items()]


def _is_duration(value: Any) -> bool:
    return isinstance(value, float) and 0 <= value < 1e9


def folder_name(row: str) -> str:
    """Return the name of a row's folder: ``G=2`` → ``g-2``."""
    return re.sub(r"\W+", "-", row.lower()).strip("-")


def write_pairs(pairs: Sequence[Pair]) -> str:
    """Return the lines of ``pairs.jsonl``: every example that two compared rows grade differently."""
    lines = [
        {"row": pair.after.name, "against": pair.before.name, **change.line()}
        for pair in pairs
        for change in pair.changes()
    ]
    return "".join(dump_json(line) + "\n" for line in lines)

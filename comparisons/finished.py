"""Folders of finished runs and comparisons, read as rows of a table."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptstage.comparisons.results import Evaluation, Row, Stages
from promptstage.utilities.errors import UserError, printable
from promptstage.utilities.reading import read_typed

RECORDS = "compare.json"  # in a comparison's folder: flags and durations of its runs
TESTED = "tested"  # entry of these records: name of the folder of a run's test


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

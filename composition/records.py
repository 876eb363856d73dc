"""Records of an earlier run, checked line by line."""

import json
import os
import re
from pathlib import Path
from typing import Any

from promptstage.grading.grader import grade
from promptstage.utilities.errors import UserError
from promptstage.utilities.processes import note
from promptstage.utilities.reading import parse_object

# Fields required for grading and comparisons; other fields are passed through.
FIELDS: dict[str, tuple[Any, str]] = {
    "id": (str, "a text"),
    "generation": (str, "a text"),
    "prediction": (str | None, "a text or null"),
    "reference": (str, "a text"),
    "correct": (bool, "true or false"),
    "reason": (str, "a text"),
}


def find_records(path: str) -> Path:
    """Find the records at ``path``: a file, or ``results.jsonl`` in a folder or its newest complete test.

    Tests are numbered ``test``, ``test-2``, …; a note names a newer incomplete one.

    Raises:
        UserError: if there are no records.
    """
    # os.path: a Path raises for a folder without read permission.
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise UserError(f"{path} does not exist (allowed: results.jsonl, its folder, or a run folder)")
        return Path(path)
    if os.path.isfile(file := Path(path, "results.jsonl")):
        return file
    try:
        names = [name for name in os.listdir(path) if re.fullmatch(r"test(-[1-9]\d{0,9})?", name)]
    except OSError as error:
        raise UserError(f"folder {path} cannot be read: {error.strerror}") from error
    names.sort(key=lambda name: int(name[5:] or 1), reverse=True)
    partial = None
    for name in names:
        if os.path.isfile(file := Path(path, name, "results.jsonl")):
            if partial is not None:
                note(f"{partial} belongs to an incomplete test")
            return file
        if partial is None and os.path.isfile(file := Path(path, name, "results.partial.jsonl")):
            partial = file
    if partial is not None:
        raise UserError(
            f"folder {path} has no complete results: {partial} holds the records of an interrupted test"
        )
    raise UserError(f"folder {path} has no results.jsonl or test/results.jsonl")


def total_questions(records: Path) -> int:
    """Return the number of questions of the evaluation whose records these are; 0 if it is unknown."""
    try:
        summary = json.loads(records.with_name("summary.json").read_bytes())
        return int(summary["questions"]) if records.name == "results.jsonl" else 0
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0  # of an older version, or moved


def check_data_set(name: str) -> None:
    """Check that there is a grader for a data set.

    Raises:
        UserError: if there is none, with the nearest name.
    """
    grade(name, "", "")


def read_records(path: Path, dataset: str | None) -> list[dict[str, Any]]:
    """Read the records in a file, with ``dataset`` and ``options`` added where they are missing.

    Args:
        dataset: data set of all records; None: field ``dataset`` of each, or else the first part of its id.

    Raises:
        UserError: if the file cannot be read or is empty; with file and line, if a record cannot be graded.
    """
    records, known = [], set()
    try:
        # Bytes: lines of text also end at characters that JSON allows inside a string.
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    record = _checked(parse_object(line))
                    name = dataset or record.get("dataset") or record["id"].partition("/")[0]
                    if name not in known:
                        check_data_set(name)
                        known.add(name)
                except UserError as error:
                    raise UserError(f"{path}:{number}: {error}") from error
                records.append(record | {"dataset": name})
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not records:
        raise UserError(f"{path} has no records")
    return records


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    for name, (kind, expected) in FIELDS.items():
        if name not in fields:
            raise UserError(f"no field '{name}': expected {expected}")
        if not isinstance(fields[name], kind):
            raise _unexpected(fields, name, expected)
    if not isinstance(fields.get("dataset"), str | None):
        raise _unexpected(fields, "dataset", "a text or null")
    options = fields.get("options")
    if not isinstance(options, list | None) or not all(isinstance(text, str) for text in options or ()):
        raise _unexpected(fields, "options", "a list of texts or null")
    return fields | {"options": options}


def _unexpected(fields: dict[str, Any], name: str, expected: str) -> UserError:
    return UserError(f"field '{name}' is {fields[name]!r:.60}: expected {expected}")

"""Records of an earlier run, checked line by line."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promptstage.grading.data_sets import DATA_SETS
from promptstage.grading.kinds import stored_kind
from promptstage.utilities.errors import UserError, choose
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


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the records in a file, with ``dataset``, ``kind`` and ``options`` added where they are missing.

    The data set of a record without the field is the first part of its id.

    Raises:
        UserError: if the file cannot be read or is empty; with file and line, if a record is malformed.
    """
    return _read(path, lambda record: record)


def read_gradable(path: Path, dataset: str | None, kind: str | None) -> list[dict[str, Any]]:
    """Read the records in a file with the kind by which each is to be graded.

    Args:
        dataset: data set of all records; None: that of each.
        kind: kind of all answers; None: the data set's if ``dataset`` is given, or else the record's own.

    Raises:
        UserError: as :func:`read_records`, and if the kind or data set of a record is unknown, or its kind is
            a function, which is never imported by a name from a file.
    """

    def with_kind(record: dict[str, Any]) -> dict[str, Any]:
        name = dataset or record["dataset"]
        own = None if dataset else record["kind"]
        if kind is None and own is None:
            choose("data set", name, DATA_SETS)
        return record | {"dataset": name, "kind": kind or stored_kind(own or name).name}

    return _read(path, with_kind)


def _read(path: Path, prepare: Callable[[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
    """Read the records in a file, each passed through ``prepare``."""
    records = []
    try:
        # Bytes: lines of text also end at characters that JSON allows inside a string.
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    records.append(prepare(_checked(parse_object(line))))
                except UserError as error:
                    raise UserError(f"{path}:{number}: {error}") from error
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
    for name in ("dataset", "kind"):
        if not isinstance(fields.get(name), str | None):
            raise _unexpected(fields, name, "a text or null")
    dataset = fields.get("dataset") or fields["id"].partition("/")[0]
    options = fields.get("options")
    if not isinstance(options, list | None) or not all(isinstance(text, str) for text in options or ()):
        raise _unexpected(fields, "options", "a list of texts or null")
    return fields | {"dataset": dataset, "kind": fields.get("kind"), "options": options}


def _unexpected(fields: dict[str, Any], name: str, expected: str) -> UserError:
    return UserError(f"field '{name}' is {fields[name]!r:.60}: expected {expected}")

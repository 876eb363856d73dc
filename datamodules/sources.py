"""Rows of a data set, from a local folder of JSON lines or from the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from utilities.errors import UserError

T = TypeVar("T")


class Row(NamedTuple):
    """One row: its fields, and where it stands for messages (``train.jsonl:12``)."""

    fields: Mapping[str, Any]
    where: str


class MalformedRow(ValueError):
    """A row without what its data set needs; the message says what, the reader of rows adds where."""


def text_field(row: Mapping[str, Any], name: str) -> str:
    """Text ``name`` of ``row``, stripped; raises as :func:`field` does."""
    return field(row, name, str).strip()


def field(row: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Field ``name`` of ``row``, which has to be a non-empty ``kind``.

    Raises:
        MalformedRow: when it is missing, empty or of another type.
    """
    if name not in row:
        raise MalformedRow(f"no field '{name}' (fields: {', '.join(map(str, row)) or 'none'})")
    value = row[name]
    if not isinstance(value, kind) or not value or (isinstance(value, str) and not value.strip()):
        raise MalformedRow(f"field '{name}' is {value!r:.60}: expected a non-empty {kind.__name__}")
    return value


def local_folder(source: str) -> Path | None:
    """The folder that ``source`` names, or None for a hub id.

    Raises:
        UserError: when it can only be a folder and does not exist.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(
            f"data source {source} is a file: give the folder that holds train.jsonl, test.jsonl, …"
        )
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise UserError(
            f"data folder {source} does not exist (allowed: a local folder or a hub id owner/name)"
        )
    return None


def read_jsonl(path: Path) -> list[Row]:
    """Rows of a file with one JSON object a line; blank lines are passed over.

    Raises:
        UserError: for a missing, unreadable or empty file, or a line that is no JSON object.
    """
    if not path.is_file():
        found = ", ".join(sorted(file.name for file in path.parent.glob("*.jsonl"))) or "none"
        raise UserError(f"data folder {path.parent} has no {path.name} (JSON-lines files there: {found})")
    rows = []
    try:
        # Not splitlines(): it also cuts at characters that JSON allows inside a string.
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(Row(_json_object(line, f"{path}:{number}"), f"{path}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def read_hub(source: str, configs: Sequence[str], split: str, revision: str | None) -> list[Row]:
    """Rows of ``split`` of a hub data set, ``configs`` one after the other.

    Raises:
        UserError: when it cannot be loaded, or is empty.
    """
    import datasets

    rows: list[Row] = []
    for config in configs:
        try:
            table = datasets.load_dataset(source, config, split=split, revision=revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"data set '{source}' ({config}, {split}) cannot be loaded: {first} "
                "(allowed: a hub id, or a local folder with one .jsonl file a split)"
            ) from error
        rows.extend(Row(fields, f"{source} {config}/{split} row {i}") for i, fields in enumerate(table))
    if not rows:
        raise UserError(f"data set '{source}' has no rows in split {split}")
    return rows

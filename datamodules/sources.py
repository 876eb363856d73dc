"""Rows of a data set, from a local folder of JSON lines or from the Hugging Face hub."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from utilities.errors import UserError

T = TypeVar("T")
KINDS: dict[type, str] = {str: "text", list: "list", dict: "JSON object"}


class Row(NamedTuple):
    """One row.

    Attributes:
        fields: what it holds.
        where: where it stands, for messages (``train.jsonl:12``).
        problem: why it could not be read; then there are no fields.
    """

    fields: Mapping[str, Any]
    where: str
    problem: str = ""


class MalformedRow(ValueError):
    """A row without what its data set needs; the message says what, the reader of rows adds where."""


def text_field(row: Mapping[str, Any], name: str) -> str:
    """Text ``name`` of ``row``, stripped; raises as :func:`field` does."""
    return field(row, name, str).strip()


def texts_field(row: Mapping[str, Any], name: str) -> list[str]:
    """The texts of the list ``name`` of ``row``, stripped; raises as :func:`field` does, also for each."""
    texts = numbered(name, field(row, name, list))
    return [text_field(texts, entry) for entry in texts]


def object_field(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Object ``name`` of ``row``, its fields called ``name.field``; raises as :func:`field` does."""
    return {f"{name}.{inner}": value for inner, value in field(row, name, dict).items()}


def numbered(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """The entries of a list as fields ``name[0]``, ``name[1]`` and so on."""
    return {f"{name}[{i}]": value for i, value in enumerate(values)}


def field(row: Mapping[str, Any], name: str, kind: type[T], *, empty: bool = False) -> T:
    """Field ``name`` of ``row``, which has to be a ``kind``, and not empty unless ``empty``.

    Raises:
        MalformedRow: when it is missing, empty or of another type.
    """
    if name not in row:
        raise MalformedRow(f"no field '{name}' (fields: {', '.join(map(str, row)) or 'none'})")
    value = row[name]
    nothing = not (value.strip() if isinstance(value, str) else value)
    if not isinstance(value, kind) or (nothing and not empty):
        expected = f"{'a' if empty else 'a non-empty'} {KINDS[kind]}"
        raise MalformedRow(f"field '{name}' is {value!r:.60}: expected {expected}")
    return value


def parse_rows(
    rows: Sequence[Row], parse: Callable[[Mapping[str, Any], str, int], T], split: str, skip: bool
) -> list[T]:
    """``parse(fields, split, number)`` of every row that is well-formed.

    Args:
        parse: raises :class:`MalformedRow` for a row that is not.
        skip: leave such rows out, and say how many in one line.

    Raises:
        UserError: for a malformed row, or with ``skip`` when there is no other.
    """
    parsed: list[T] = []
    bad: list[str] = []
    for number, row in enumerate(rows):
        try:
            if row.problem:
                raise MalformedRow(row.problem)
            parsed.append(parse(row.fields, split, number))
        except MalformedRow as error:
            if not skip:
                raise UserError(
                    f"{row.where}: {error} (--data.on_bad_row=skip leaves malformed rows out)"
                ) from error
            bad.append(f"{row.where}: {error}")
    if not parsed:
        raise UserError(f"all {len(rows)} rows are malformed, the first is {bad[0]}")
    if bad:
        rank_zero_info(f"left out {len(bad)} malformed of {len(rows)} rows, the first is {bad[0]}")
    return parsed


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

    A line that is no JSON object becomes a row with a ``problem``.

    Raises:
        UserError: for a missing, unreadable or empty file.
    """
    if not path.is_file():
        found = ", ".join(sorted(file.name for file in path.parent.glob("*.jsonl"))) or "none"
        raise UserError(f"data folder {path.parent} has no {path.name} (JSON-lines files there: {found})")
    rows = []
    try:
        # Bytes: lines of text also end at characters that JSON allows inside a string.
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_json_row(line, f"{path}:{number}"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _json_row(line: bytes, where: str) -> Row:
    try:
        value = json.loads(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return Row({}, where, f"not UTF-8: {error}")
    except (ValueError, RecursionError) as error:
        return Row({}, where, f"not valid JSON: {error}")
    if not isinstance(value, dict):
        return Row({}, where, f"expected a JSON object, got {value!r:.60}")
    return Row(value, where)


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

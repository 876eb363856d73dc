"""Rows of a data set, from a local folder of JSON lines or from the Hugging Face hub."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from promptstage.utilities.errors import UserError
from promptstage.utilities.hub_access import use_cache_if_offline
from promptstage.utilities.reading import parse_unique

T = TypeVar("T")
KINDS: dict[type, str] = {str: "text", list: "list", dict: "JSON object"}

# More than any data set of questions has; a larger file would fill the memory, or never end.
LARGEST_FILE = 2 << 30
LONGEST_LINE = 16 << 20
MOST_ROWS = 5_000_000
LONGEST_TEXT = 1_000_000  # characters; more than any context, and minutes of tokenization
BOM = b"\xef\xbb\xbf"
OTHER_FORMATS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"{\0": "UTF-16",
    b"\0{": "UTF-16",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PAR1": "parquet",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file)",
}


class Row(NamedTuple):
    """Row of a data set.

    Attributes:
        fields: what it holds.
        where: where it stands, for messages (``train.jsonl:12``).
        problem: why it could not be read; then there are no fields.
    """

    fields: Mapping[str, Any]
    where: str
    problem: str = ""


class MalformedRow(ValueError):
    """Error for a row that lacks a field; the reader of rows adds its place to the message."""


def text_field(row: Mapping[str, Any], name: str) -> str:
    """Return text ``name`` of ``row``, stripped; raises as :func:`field`."""
    return field(row, name, str).strip()


def texts_field(row: Mapping[str, Any], name: str) -> list[str]:
    """Return the texts of the list ``name`` of ``row``, stripped; raises as :func:`field` for each."""
    texts = numbered(name, field(row, name, list))
    return [text_field(texts, entry) for entry in texts]


def object_field(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return object ``name`` of ``row``, its fields named ``name.field``; raises as :func:`field`."""
    return {f"{name}.{inner}": value for inner, value in field(row, name, dict).items()}


def numbered(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return the entries of a list as fields ``name[0]``, ``name[1]`` and so on."""
    return {f"{name}[{i}]": value for i, value in enumerate(values)}


def field(row: Mapping[str, Any], name: str, kind: type[T], *, empty: bool = False) -> T:
    """Return field ``name`` of ``row``, which must be a ``kind``, and not empty unless ``empty``.

    Raises:
        MalformedRow: if it is missing, empty, of another type, or not valid Unicode.
    """
    if name not in row:
        raise MalformedRow(f"no field '{name}' (fields: {list_names(row) or 'none'})")
    value = row[name]
    nothing = not (value.strip() if isinstance(value, str) else value)
    if not isinstance(value, kind) or (nothing and not empty):
        expected = f"{'a' if empty else 'a non-empty'} {KINDS[kind]}"
        raise MalformedRow(f"field '{name}' is {_shown(value)}: expected {expected}")
    if isinstance(value, str) and (problem := text_problem(value)):
        raise MalformedRow(f"field '{name}' {problem}")
    return value


def list_names(values: Iterable[object]) -> str:
    """Format names from a file for a message: at most ten, control characters escaped.

    >>> list_names(["question", "a\\x1b[2J"])
    "question, 'a\\\\x1b[2J'"
    """
    texts = [str(value) for value in values]
    shown = [text[:60] if text.isprintable() else repr(text[:60]) for text in texts[:10]]
    return ", ".join([*shown, "…"] if len(texts) > 10 else shown)


def _shown(value: object) -> str:
    try:
        return f"{value!r:.60}"
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


def text_problem(text: str) -> str:
    """Describe why ``text`` cannot be tokenized: a lone surrogate, or its length; "" if it can.

    >>> text_problem("half an emoji: \\ud83d")
    "has a lone surrogate '\\\\ud83d' at character 15"
    """
    if len(text) > LONGEST_TEXT:
        return f"must have at most {LONGEST_TEXT:,} characters, got {len(text):,}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"has a lone surrogate {text[error.start]!r} at character {error.start}"
    return ""


def parse_rows(
    rows: Sequence[Row], parse: Callable[[Mapping[str, Any], str, int], T], split: str, skip: bool
) -> list[T]:
    """Parse every well-formed row by ``parse(fields, split, number)``.

    Args:
        parse: raises :class:`MalformedRow` for a malformed row.
        skip: leave malformed rows out, and log their number.

    Raises:
        UserError: for a malformed row, or with ``skip`` if all rows are malformed.
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
                    f"{row.where}: {error} (on_bad_row 'skip' leaves malformed rows out)"
                ) from error
            bad.append(f"{row.where}: {error}")
    if not parsed:
        raise UserError(f"all {len(rows)} rows are malformed, the first is {bad[0]}")
    if bad:
        rank_zero_info(f"left out {len(bad)} malformed of {len(rows)} rows, the first is {bad[0]}")
    return parsed


def local_folder(source: str) -> Path | None:
    """Return the folder that ``source`` names, or None for a hub id.

    Raises:
        UserError: if it can only be a folder and does not exist.
    """
    try:
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, an unknown user's home
        raise UserError(f"data folder {source!r:.200} cannot be opened: {error!s:.200}") from error
    if is_folder:
        return path
    if is_file:
        raise UserError(
            f"data source {source} is a file: give the folder that holds train.jsonl, test.jsonl, …"
        )
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise UserError(
            f"data folder {source} does not exist (allowed: a local folder or a hub id owner/name)"
        )
    return None


def read_jsonl(path: Path) -> list[Row]:
    """Read a file of one JSON object per line; blank lines and a byte-order mark are skipped.

    A line that is not a JSON object becomes a row with a ``problem``.

    Raises:
        UserError: if the file is missing, unreadable, empty or too large.
    """
    if not path.is_file():
        if os.path.lexists(path):
            raise UserError(f"{path} is not a regular file: expected JSON lines")
        names = list_names(sorted(file.name for file in path.parent.glob("*.jsonl"))) or "none"
        raise UserError(f"data folder {path.parent} has no {path.name} (JSON-lines files there: {names})")
    rows: list[Row] = []
    number = size = 0
    try:
        # Bytes: lines of text also end at characters that JSON allows inside a string.
        with path.open("rb") as lines:
            _check_size(path, os.fstat(lines.fileno()).st_size)
            while line := lines.readline(LONGEST_LINE + 1):
                number, size = number + 1, size + len(line)
                if number == 1:
                    line = _first_line(path, line)
                if len(line) > LONGEST_LINE:
                    raise UserError(f"{path}:{number}: the line is longer than {LONGEST_LINE >> 20} MiB")
                _check_size(path, size)
                if line.strip():
                    rows.append(json_row(line, f"{path}:{number}"))
                if len(rows) > MOST_ROWS:
                    raise UserError(f"{path} has more than {MOST_ROWS:,} rows")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST_FILE:
        raise UserError(f"{path} is larger than {LARGEST_FILE >> 30} GiB: split it, or take a part of it")


def _first_line(path: Path, line: bytes) -> bytes:
    """Strip the byte-order mark from a file's first line.

    Raises:
        UserError: if the line shows that the file is not UTF-8 text.
    """
    for start, name in OTHER_FORMATS.items():
        if line.startswith(start):
            raise UserError(f"{path} is {name}: expected JSON lines in UTF-8")
    return line.removeprefix(BOM)


def json_row(line: bytes, where: str) -> Row:
    """Read one line as a JSON object; another line becomes a row with a ``problem``."""
    try:
        value = parse_unique(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return Row({}, where, f"not UTF-8: {error}")
    except (ValueError, RecursionError) as error:
        return Row({}, where, f"not valid JSON: {error}")
    if not isinstance(value, dict):
        return Row({}, where, f"expected a JSON object, got {_shown(value)}")
    return Row(value, where)


def read_hub(source: str, configs: Sequence[str], split: str, revision: str | None) -> list[Row]:
    """Read the rows of ``split`` of a hub data set, ``configs`` in order.

    Raises:
        UserError: when it cannot be loaded, or is empty.
    """
    import datasets

    use_cache_if_offline()
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

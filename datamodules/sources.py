"""Rows of a data set, their fields, and their sources: local files or the Hugging Face hub."""

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from promptstage.utilities.errors import UserError
from promptstage.utilities.hub_access import use_cache_if_offline

T = TypeVar("T")
KINDS: dict[type, str] = {str: "text", list: "list", dict: "JSON object"}

TRIED = 20  # rows after a malformed one that are tried before skipping is suggested
LONGEST_TEXT = 1_000_000  # characters; more than any context, and minutes of tokenization


FILE = re.compile(r"\.(jsonl?|ndjson|[ct]sv|parquet)(\.gz)?$", re.IGNORECASE)  # a name that no hub id has


class Row(NamedTuple):
    """Row of a data set.

    Attributes:
        fields: values by field name.
        where: location for messages, such as ``train.jsonl:12``.
        problem: reason why it could not be read, with empty ``fields``; "" if it was read.
    """

    fields: Mapping[str, Any]
    where: str
    problem: str = ""


class MalformedRow(ValueError):
    """Error for a malformed row; the reader of rows adds its location to the message."""


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
        raise missing_field(name, row)
    value = row[name]
    nothing = not (value.strip() if isinstance(value, str) else value)
    if not isinstance(value, kind) or (nothing and not empty):
        expected = f"{'a' if empty else 'a non-empty'} {KINDS[kind]}"
        raise MalformedRow(f"field '{name}' is {_shown(value)}: expected {expected}")
    if isinstance(value, str) and (problem := text_problem(value)):
        raise MalformedRow(f"field '{name}' {problem}")
    return value


def missing_field(name: str, names: Iterable[str]) -> MalformedRow:
    """Return the error of a missing field, with the names of those that there are and the most similar one.

    >>> missing_field("die frage", ["Die Frage", "Rest"])
    MalformedRow("no field 'die frage' (fields: Die Frage, Rest): did you mean 'Die Frage'?")
    """
    names = list(names)
    folded = {unicodedata.normalize("NFKC", known).casefold().strip(): known for known in names}
    close = difflib.get_close_matches(unicodedata.normalize("NFKC", name).casefold(), folded, n=1)
    hint = f": did you mean {folded[close[0]]!r:.60}?" if close else ""
    return MalformedRow(f"no field '{name}' (fields: {list_names(names) or 'none'}){hint}")


def list_names(values: Iterable[object]) -> str:
    """Format names from a file for a message: at most ten, control characters escaped.

    >>> list_names(["question", "a\\x1b[2J"])
    "question, 'a\\\\x1b[2J'"
    """
    texts = [str(value) for value in values]
    shown = [text[:60] if text and text.isprintable() else repr(text[:60]) for text in texts[:10]]
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
    rows: Sequence[Row],
    parse: Callable[[Mapping[str, Any], str, int], T | None],
    split: str,
    skip: bool,
) -> list[T]:
    """Parse every well-formed row by ``parse(fields, split, number)``.

    Args:
        parse: returns None for a row that is not used; raises :class:`MalformedRow` for a malformed row.
        skip: leave malformed rows out, and log their number.

    Raises:
        UserError: for a malformed row, or if no row is left.
    """
    parsed: list[T] = []
    bad: list[str] = []
    for number, row in enumerate(rows):
        try:
            if row.problem:
                raise MalformedRow(row.problem)
            if (result := parse(row.fields, split, number)) is not None:
                parsed.append(result)
        except MalformedRow as error:
            if not skip:
                others = rows[number + 1 : number + 1 + TRIED]
                helps = parsed or any(_is_good(other, parse, split) for other in others)
                advice = " (on_bad_row 'skip' leaves malformed rows out)" if helps else ""
                raise UserError(f"{row.where}: {error}{advice}") from error
            bad.append(f"{row.where}: {error}")
    if not parsed and not bad:
        raise UserError(f"none of the {len(rows)} {split} rows is selected")
    if not parsed:
        raise UserError(f"all {len(rows)} rows are malformed, the first is {bad[0]}")
    if bad:
        rank_zero_info(f"left out {len(bad)} malformed of {len(rows)} rows, the first is {bad[0]}")
    return parsed


def _is_good(row: Row, parse: Callable[[Mapping[str, Any], str, int], T | None], split: str) -> bool:
    try:
        return not row.problem and parse(row.fields, split, 0) is not None
    except MalformedRow:
        return False


def local_path(source: str) -> Path | None:
    """Return the folder or file that ``source`` names, or None for a hub id.

    Raises:
        UserError: if it can only be local and does not exist.
    """
    try:
        path = Path(source).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, an unknown user's home
        raise UserError(f"data folder {source!r:.200} cannot be opened: {error!s:.200}") from error
    if exists:
        return path
    kind = "file" if FILE.search(source) else "folder"
    if kind == "file" or path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        start = "" if path.is_absolute() else f"paths start from {os.getcwd()}; "
        raise UserError(
            f"data {kind} {source} does not exist ({start}allowed: a local file or folder, or a hub id "
            "owner/name)"
        )
    return None


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
                "(allowed: a hub id, or a local file or folder)"
            ) from error
        rows.extend(Row(fields, f"{source} {config}/{split} row {i}") for i, fields in enumerate(table))
    if not rows:
        raise UserError(f"data set '{source}' has no rows in split {split}")
    return rows

"""Bounded reading of untrusted files, with checks of size, encoding, syntax and types."""

import errno
import json
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from promptstage.utilities.errors import UserError, shown

T = TypeVar("T")
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # Windows has no pipes in its file system
LIMIT = 64 << 20  # bytes of a JSON or YAML file; a partition of 128 layers takes 200 kB


def read_bytes(path: str | os.PathLike[str], what: str, limit: int = LIMIT) -> bytes:
    """Read a regular file of at most ``limit`` bytes; links are followed.

    Args:
        what: name of the file in messages, such as ``partition file``.

    Raises:
        UserError: if it is missing, unreadable, too large, or a folder, pipe or device.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{what} {path} is not a regular file")
            if status.st_size > limit:
                raise UserError(f"{what} {path} must have at most {limit} bytes, got {status.st_size}")
            return file.read(limit + 1)[:limit]
    except IsADirectoryError as error:
        raise UserError(f"{what} {path} is a folder") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, OSError) and error.errno == errno.ENOENT:
            raise UserError(f"{what} {path} does not exist") from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{what} {path} cannot be read: {reason}") from error


def read_text(path: str | os.PathLike[str], what: str, limit: int = LIMIT) -> str:
    """Read a UTF-8 file, with or without a byte-order mark; raises as :func:`read_bytes` does."""
    try:
        return read_bytes(path, what, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} is not UTF-8: {error.reason} at byte {error.start}") from error


def read_json(path: str | os.PathLike[str], what: str, limit: int = LIMIT) -> Any:
    """Read a JSON file as plain values; raises as :func:`read_bytes` and :func:`parse_json` do."""
    return parse_json(read_text(path, what, limit), f"{what} {path}")


def read_typed(
    kind: type[T], path: str | os.PathLike[str], what: str, number: int | None = None, limit: int = LIMIT
) -> T:
    """Read a JSON file of one of promptstage's formats.

    Args:
        kind: type of the content, such as a dataclass.
        number: required value of its field ``format``; None for a file without this field.

    Raises:
        UserError: as :func:`read_bytes`, :func:`parse_json` and :func:`validated` do.
    """
    return validated(kind, read_json(path, what, limit), f"{what} {path}", number)


def read_typed_lines(kind: type[T], path: str | os.PathLike[str], what: str, limit: int = LIMIT) -> list[T]:
    """Read a file with a JSON value per line, each of type ``kind``.

    Raises:
        UserError: as :func:`read_typed` does, with the number of the line.
    """
    # str.splitlines would also split at U+2028 and other separators within a JSON text.
    lines = read_text(path, what, limit).removesuffix("\n").split("\n")
    places = [f"{what} {path}:{number}" for number in range(1, len(lines) + 1)]
    return [
        validated(kind, parse_json(line, place), place) for line, place in zip(lines, places, strict=True)
    ]


def parse_json(text: str, where: str, strict: bool = True) -> Any:
    """Parse JSON.

    Args:
        strict: NaN, infinities and repeated keys are errors. Files of other programs may have them.

    Raises:
        UserError: naming ``where`` and the reason.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    hooks: dict[str, Any] = {"parse_constant": refuse, "object_pairs_hook": _unique} if strict else {}
    try:
        return json.loads(text, **hooks)
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from error


def parse_unique(text: str) -> Any:
    """Parse JSON; repeated keys, which parsers treat differently, raise a ValueError."""
    return json.loads(text, object_pairs_hook=_unique)


def parse_object(line: bytes) -> dict[str, Any]:
    """Parse a line of JSON that is an object without repeated keys.

    Raises:
        UserError: if it is anything else; the caller names file and line.
    """
    try:
        value = parse_unique(line.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"expected a JSON object, got {value!r:.60}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is repeated")
    return values


def check_format(values: Mapping[str, Any], number: int, subject: str = "it") -> None:
    """Check that this version can read the format of a file.

    Raises:
        UserError: naming ``subject``, if the field ``format`` is missing or not ``number``.
    """
    if "format" not in values:
        raise UserError("field 'format' is missing")
    if values["format"] != number:
        stored = shown(values["format"])
        raise UserError(f"{subject} has format {stored:.60}, this version reads format {number}")


def validated(kind: type[T], values: Any, where: str, number: int | None = None) -> T:
    """Build a ``kind``, such as a dataclass, from plain values of its annotated types.

    Lists are converted to tuples and text keys to integers, where annotated, since JSON has neither; nothing
    else is converted. Unknown fields are ignored.

    Args:
        number: required value of the field ``format``; None for values without this field.

    Raises:
        UserError: naming ``where``, and the first field that is missing, of a wrong type, or refused by the
            class itself.

    >>> validated(dict[str, int], {"layers": "4"}, "file x")
    Traceback (most recent call last):
    promptstage.utilities.errors.UserError: file x: field 'layers' must be a valid integer, got '4'
    """
    from pydantic import TypeAdapter, ValidationError  # importing pydantic takes a quarter of a second

    try:
        # Through JSON: in strict mode, pydantic converts lists to tuples and texts to keys only for JSON.
        text = json.dumps(values, allow_nan=False)
        if number is not None and isinstance(values, Mapping):
            check_format(values, number)
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise UserError(_problem(where, first["loc"], first["msg"], first["input"])) from error
    except (UserError, TypeError, ValueError, RecursionError) as error:  # UserError: of the class itself
        raise UserError(f"{where}: {error}") from error


def _problem(where: str, location: Sequence[int | str], reason: str, value: Any) -> str:
    """Word an error of pydantic as our own checks do."""
    field = ".".join(map(str, location))
    subject = f"{where}: field {field!r}" if field else where
    if reason == "Field required":
        return f"{subject} is missing"
    if reason.startswith("Input should "):
        return f"{subject} must {reason.removeprefix('Input should ')}, got {shown(value):.60}"
    return f"{subject}: {reason.removeprefix('Value error, ')}"  # a ValueError of the class

"""Bounded reading of untrusted files, with checks of size, encoding, syntax and types."""

import errno
import json
import os
import stat
from typing import Any, TypeVar

from promptstage.utilities.errors import UserError

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
    """Read a JSON file without NaN, infinities and repeated keys; raises as :func:`read_bytes` does."""
    return parse_json(read_text(path, what, limit), f"{what} {path}")


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; NaN, infinities and repeated keys are errors.

    Raises:
        UserError: naming ``where`` and the reason.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=_unique)
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from error


def parse_unique(text: str) -> Any:
    """Parse JSON; repeated keys, which parsers treat differently, raise a ValueError."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is repeated")
    return values


def validated(kind: type[T], values: Any, where: str) -> T:
    """Build a ``kind``, such as a dataclass, from plain values of its annotated types.

    Lists are converted to tuples and text keys to integers, where annotated, since JSON has neither; nothing
    else is converted. Unknown fields are ignored.

    Raises:
        UserError: naming ``where``, the first field of a wrong type, and the expected type.
    """
    from pydantic import TypeAdapter, ValidationError  # importing pydantic takes a quarter of a second

    try:
        # Through JSON: in strict mode, pydantic converts lists to tuples and texts to keys only for JSON.
        text = json.dumps(values, allow_nan=False)
        return TypeAdapter(kind).validate_json(text, strict=True)
    except (TypeError, ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{where}: {error}") from error
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")  # raised by the class itself
        raise UserError(f"{where}: {f'field {field!r}: ' if field else ''}{reason}") from error

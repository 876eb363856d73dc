"""JSON files from elsewhere, of bounded size and depth."""

import json
from pathlib import Path
from typing import Any, NoReturn

from utilities.errors import UserError

DEPTH = 64


def read_json(path: Path, what: str, limit_bytes: int = 16 * 2**20) -> Any:
    """Read a JSON file as plain values.

    Args:
        what: name of the file's kind, for the message.
        limit_bytes: greatest size of the file.

    Raises:
        UserError: when the file cannot be read, is too large or too deep, or is not JSON; duplicate keys, NaN
            and infinity are not.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from error
    if len(content) > limit_bytes:
        raise UserError(f"{what} {path} is larger than {limit_bytes} bytes")
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_constant)
        if _depth(value) > DEPTH:
            raise ValueError(f"nested more than {DEPTH} levels deep")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is not JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is given twice")
    return values


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth

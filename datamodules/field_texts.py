"""Texts made of the fields of a row, such as ``{problem}`` or ``{context} {question}``."""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from promptstage.datamodules.sources import MalformedRow, missing_field, text_problem
from promptstage.utilities.errors import UserError

PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
ESCAPED = {"{{": "{", "}}": "}"}


class FieldText:
    """A text with fields of a row in braces.

    ``{meta.level}`` is the field ``level`` of the object ``meta``, and ``{{`` a brace. Numbers and booleans
    become text. Nothing but fields can be in braces.

    Args:
        text: the name of a field, or a text with at least one field in braces.
        option: name of the option, for messages.
        literal: a text without braces stands for itself.

    Raises:
        UserError: if the text is empty or has no field, or braces are not closed.
    """

    def __init__(self, text: str, option: str, literal: bool = False) -> None:
        if not text.strip():
            raise UserError(f"{option} must name a field, or be a text with fields in braces, got {text!r}")
        if "{" not in text and "}" not in text and not literal:
            text = f"{{{text.strip()}}}"
        self.option = option
        self.parts = list(_parts(text, option))
        if not literal and all(name is None for _, name in self.parts):
            # The same text for every row; {{problem}} is how other template languages write a field.
            raise UserError(
                f"{option} must name a field, such as {{problem}}, got {text!r:.80}, where {{{{ is a brace"
            )

    def __call__(self, row: Mapping[str, Any]) -> str:
        """Fill in the fields of a row, stripped.

        Raises:
            MalformedRow: if a field is missing, empty, or neither text nor a number.
        """
        texts = [
            text if name is None else value_text(row_value(row, name), name) for text, name in self.parts
        ]
        return "".join(texts).strip()

    @property
    def name(self) -> str:
        """Name of the single field, or of the option."""
        names = [name for _, name in self.parts if name is not None]
        return names[0] if len(names) == 1 else self.option

    def value(self, row: Mapping[str, Any]) -> Any:
        """Return the value of the single field, or the text of several."""
        names = [name for _, name in self.parts]
        return row_value(row, names[0]) if len(names) == 1 and names[0] is not None else self(row)


def _parts(text: str, option: str) -> Iterator[tuple[str, str | None]]:
    """Yield pieces of text, and names of fields."""
    end = 0
    for match in PART.finditer(text):
        if match.start() > end:
            yield text[end : match.start()], None
        end = match.end()
        if (brace := ESCAPED.get(match.group())) is not None:
            yield brace, None
        elif match.group(1) is None or not match.group(1).strip():
            raise UserError(
                f"{option} must have a field in each pair of braces, {{problem}}, got {text!r:.80}"
            )
        else:
            yield "", match.group(1).strip()
    if end < len(text):
        yield text[end:], None


def row_value(row: Mapping[str, Any], name: str, outside: str = "") -> Any:
    """Return the field ``name`` of a row, or of an object in it for ``object.field``.

    A name may be composed of other Unicode characters (NFC or NFD) than that of the row.

    Args:
        outside: the objects that the row is in, for messages.

    Raises:
        MalformedRow: if it is missing.
    """
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    if inner and isinstance(row.get(outer), Mapping):
        return row_value(row[outer], inner, f"{outside}{outer}.")
    if not name.isascii():
        same = [key for key in row if _composed(key) == _composed(name)]
        if len(same) == 1:
            return row[same[0]]
    raise missing_field(f"{outside}{name}", (f"{outside}{key}" for key in row))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def value_text(value: Any, name: str) -> str:
    """Return a value as text: numbers as they are usually written, 70.0 as 70.

    Raises:
        MalformedRow: if it is empty, not a finite number, or neither text, number nor boolean.

    >>> value_text(70.0, "answer"), value_text(True, "answer"), value_text(" x ", "answer")
    ('70', 'True', 'x')
    """
    if isinstance(value, float | Decimal) and not math.isfinite(value):  # pandas writes missing values as NaN
        raise MalformedRow(f"field '{name}' is {value}: expected a non-empty text or a number")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, Decimal):  # of Parquet
        return f"{value.normalize():f}"
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise MalformedRow(f"field '{name}' is {value!r:.60}: expected a non-empty text or a number")
    if problem := text_problem(value):
        raise MalformedRow(f"field '{name}' {problem}")
    return value.strip()

"""Questions of ``predict``, from a file or standard input."""

import re
import sys
from pathlib import Path

from promptstage.datamodules.files import json_row
from promptstage.datamodules.sources import MalformedRow, text_field
from promptstage.utilities.errors import UserError

LARGEST = 256 << 20  # bytes
LINE_END = re.compile(r"\r?\n")


def read_questions(source: str, field_name: str | None = "question") -> list[str]:
    """Read one question per line, stripped and without empty lines; only a line feed ends a line.

    If the file's name ends in ``.jsonl``, or its first line is a JSON object, all lines must be JSON objects.

    Args:
        source: a file in UTF-8, or ``-`` for standard input.
        field_name: field of JSON Lines with the question; None if a question is in several fields.

    Raises:
        UserError: if the file cannot be read, or a line is not valid text, or has no question.
    """
    name = "standard input" if source == "-" else f"questions file {source}"
    questions = []
    lines = LINE_END.split(_text(source, name))
    first = next((line for line in lines if line.strip()), "")
    if source.lower().endswith(".jsonl") or json_row(first.encode(errors="replace"), "").fields:
        return _json_questions(lines, name, field_name)
    for number, line in enumerate(lines, start=1):
        if "\0" in line or not _is_unicode(line):
            kind = "a NUL character" if "\0" in line else "a lone surrogate"
            raise UserError(f"{name} holds {kind} in line {number}: expected text in UTF-8")
        if question := line.strip():
            questions.append(question)
    return questions


def _json_questions(lines: list[str], name: str, field_name: str | None) -> list[str]:
    if field_name is None:
        raise UserError(
            f"{name} holds JSON Lines, but a question of this data set is in several fields: give text, one "
            "question a line"
        )
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = json_row(line.encode(errors="surrogatepass"), "")
        try:
            if row.problem:
                raise MalformedRow(row.problem)
            questions.append(text_field(row.fields, field_name))
        except MalformedRow as error:
            raise UserError(
                f"{name}, line {number}: {error} (JSON Lines need the field '{field_name}'; other files hold "
                "one question a line)"
            ) from error
    return questions


def _text(source: str, name: str) -> str:
    data = _standard_input() if source == "-" else _file(source, name)
    if isinstance(data, str):
        return data
    if len(data) > LARGEST:
        raise UserError(f"{name} is larger than {LARGEST >> 20} MiB")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{name} cannot be read: it is UTF-16, expected UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name} cannot be read: byte 0x{data[error.start]:02x} in line {line} is not UTF-8"
        ) from error


def _standard_input() -> bytes | str:
    if sys.stdin is None:
        return b""
    # Bytes, since stdin's encoding follows the locale. A caller may have replaced stdin by a text stream.
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    data: bytes | str = stream.read(LARGEST + 1)
    return data


def _file(source: str, name: str) -> bytes:
    try:
        path = Path(source).expanduser()
        if not path.exists():
            raise UserError(f"{name} does not exist (- reads standard input)")
        if not path.is_file():
            raise UserError(f"{name} is not a regular file (- reads standard input)")
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name} cannot be read: {error}") from error


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Output of ``predict``: a JSON line for each question."""

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from promptstage.lightning_modules.decoding.records import Record
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import write_text

FIELDS = ("id", "question", "generation", "prediction")


def check_answers(path: Path) -> None:
    """Check that answers can be written to a file, pipe or device.

    Raises:
        UserError: if it is a folder or a link to a file, or cannot be written.
    """
    folder = path.parent
    if path.is_symlink() and not _is_stream(path):
        raise UserError(f"answers file {path} is a link: name the file that it points to")
    if path.is_dir() or not folder.is_dir():
        raise UserError(f"answers file {path} cannot be written")
    if not os.access(path if _is_stream(path) else folder, os.W_OK):
        raise UserError(f"answers file {path} cannot be written")


def write_answers(records: Sequence[Record], target: str) -> None:
    """Write id, question, generation and prediction of each record as a JSON line.

    Args:
        target: a file to replace, a pipe or device to write to, or ``-`` for standard output.
    """
    lines = [json.dumps({name: getattr(record, name) for name in FIELDS}) for record in records]
    text = "".join(f"{line}\n" for line in lines)
    path = Path(target).expanduser()
    if target == "-":
        print(text, end="", flush=True)
    elif _is_stream(path):
        with path.open("w") as stream:
            stream.write(text)
    else:
        write_text(path, text)


def _is_stream(path: Path) -> bool:
    """Return whether the path leads to a pipe, socket or device, such as /dev/stdout or /dev/null."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

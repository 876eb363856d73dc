"""Partial results, written while an evaluation runs in case it is interrupted."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import lightning as L

from promptstage.utilities.errors import UserError
from promptstage.utilities.files import write_text

NEWLINE = "\n"
_NO_LINKS, _NONBLOCK = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)  # not on Windows


class PartialLines:
    """Partial JSON-lines file of each rank, beside the complete file that is written at the end.

    Rank 0 writes ``results.partial.jsonl``, rank 3 ``results.partial-3.jsonl``. Lines are on the disk
    when :meth:`append` returns. A resumed evaluation appends to the file of its rank. Where nothing can be
    written, the evaluation continues without partial results.

    Attributes:
        count: lines that this rank has written.
        error: reason for which no more lines are written; None while they are.
    """

    def __init__(self, path: Path, trainer: L.Trainer) -> None:
        """
        Args:
            path: the complete file, as rank 0 names it.
        """
        # Only rank 0 numbers the folder, so that its name may differ on other ranks.
        self.path: Path = trainer.strategy.broadcast(path)
        rank = f"-{trainer.global_rank}" if trainer.global_rank else ""
        self.own = self.path.with_name(f"{path.stem}.partial{rank}.jsonl")
        self.count = 0
        self.error: str | None = None
        self._file: TextIO | None = None

    def append(self, lines: Iterable[str]) -> None:
        """Append lines, given without their newlines."""
        text = "".join(f"{line}\n" for line in lines)
        if not text or self.error is not None:
            return
        try:
            if self._file is None:
                self._file = _open(self.own)
            self._file.write(text)
            self._file.flush()
            self.count += text.count("\n")
            os.fsync(self._file.fileno())  # a machine that stops loses no finished batch
        except OSError as error:
            self.error = error.strerror or str(error)
            self.close()

    def close(self) -> None:
        """Close this rank's file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the files of all ranks, once the complete files of all callbacks are written."""
        for file in self.path.parent.glob(f"{self.path.stem}.partial*.jsonl"):
            with contextlib.suppress(OSError):
                file.unlink()


def _open(path: Path) -> TextIO:
    """Open a new file, or that of an interrupted evaluation behind its last whole line."""
    if not os.path.lexists(path):
        return path.open("x", encoding="utf-8", errors="backslashreplace")
    descriptor = os.open(path, os.O_RDWR | _NO_LINKS | _NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, "not a regular file", str(path))
    with os.fdopen(os.dup(descriptor), "rb") as file:
        whole = file.read().rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)
    os.lseek(descriptor, 0, os.SEEK_END)
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace")


def write_or_rescue(path: Path, lines: Iterable[str]) -> None:
    """Write lines, given without their newlines, to a file.

    Raises:
        UserError: if it cannot be written; the lines are then in a temporary file, else on standard output.
    """
    text = "".join(f"{line}\n" for line in lines)
    try:
        write_text(path, text)
    except UserError as error:
        raise UserError(f"{error}; {_rescue(path, text)}") from error


def _rescue(path: Path, text: str) -> str:
    """Save ``text`` to a temporary file, else print it; return a clause for the message."""
    try:
        other = Path(tempfile.mkdtemp(prefix="promptstage-")) / path.name
        write_text(other, text)
    except (OSError, UserError):
        print(text, end="", flush=True)
        return f"a temporary file cannot be written either: its {text.count(NEWLINE)} lines are printed"
    return f"its lines are saved to {other}"

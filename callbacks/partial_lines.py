"""Lines that are on the disk while an evaluation runs, for when it is stopped."""

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import lightning as L

from utilities.errors import UserError
from utilities.files import write_text

NEWLINE = "\n"


class PartialLines:
    """A file for each process, beside the one that all lines are in at the end.

    Process 0 writes ``results.partial.jsonl``, process 3 ``results.partial-3.jsonl``. Lines are in the file
    system when :meth:`append` returns. Where nothing can be written the evaluation goes on without.

    Attributes:
        count: lines that this process has written.
        error: why no line was written; None if there is no reason.
    """

    def __init__(self, path: Path, trainer: L.Trainer) -> None:
        """
        Args:
            path: the complete file, as process 0 names it.
        """
        # A folder may have another name on other processes, which have not numbered it.
        self.path: Path = trainer.strategy.broadcast(path)
        rank = f"-{trainer.global_rank}" if trainer.global_rank else ""
        self.own = self.path.with_name(f"{path.stem}.partial{rank}.jsonl")
        self.count = 0
        self.error: str | None = None
        self._file: TextIO | None = None

    def append(self, lines: Iterable[str]) -> None:
        """Add lines, each without its end."""
        text = "".join(f"{line}\n" for line in lines)
        if not text or self.error is not None:
            return
        try:
            if self._file is None:
                self._file = self.own.open("x", encoding="utf-8", errors="backslashreplace")
            self._file.write(text)
            self._file.flush()
            self.count += text.count("\n")
        except OSError as error:
            self.error = error.strerror or str(error)
            self.close()

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove all processes' files: the complete one is written."""
        for file in self.path.parent.glob(f"{self.path.stem}.partial*.jsonl"):
            with contextlib.suppress(OSError):
                file.unlink()


def write_or_rescue(path: Path, lines: Iterable[str]) -> None:
    """Write lines, each without its end, as a file.

    Raises:
        UserError: when it cannot be written; the lines are then in a temporary file, else on standard output.
    """
    text = "".join(f"{line}\n" for line in lines)
    try:
        write_text(path, text)
    except UserError as error:
        raise UserError(f"{error}; {_rescue(path, text)}") from error


def _rescue(path: Path, text: str) -> str:
    """Save ``text`` somewhere else, and say where."""
    try:
        other = Path(tempfile.mkdtemp(prefix="promptstage-")) / path.name
        write_text(other, text)
    except (OSError, UserError):
        print(text, end="", flush=True)
        return f"nor is there room for it elsewhere: its {text.count(NEWLINE)} lines are printed"
    return f"it is {other} instead"

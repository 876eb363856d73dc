"""Redirection of the output of a comparison's commands to a file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from promptstage.utilities.errors import printable


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append the output of this process and its children to a file.

    Descriptors are redirected, too, since loggers hold references to the original streams.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        with path.open("a", encoding="utf-8", buffering=1) as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
            with redirect_stdout(file), redirect_stderr(file):
                yield
    finally:
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                with suppress(OSError, ValueError):
                    stream.flush()  # output of loggers
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


def errors_in(path: Path) -> list[str]:
    """Return the error lines at the end of a log, or its last line if there is none."""
    lines = path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return [printable(line) for line in errors[-1:] or lines[-1:]]


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours.

    >>> duration(42), duration(250), duration(9000)
    ('42 s', '4 min', '2 h 30 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"

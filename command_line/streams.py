"""Standard streams that are closed, full or of another encoding; imports no heavy library."""

import errno
import io
import os
import sys

from promptstage.utilities.errors import UserError


class _Output(io.FileIO):
    """Descriptor with writes that never fail: data that cannot be written is dropped.

    Attributes:
        error: first error of a write; None if there is none.
        was_closed: the descriptor was closed when the process started.
    """

    error: OSError | None = None
    was_closed = False

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # any buffer there
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


def open_streams() -> None:
    """Replace standard streams that are closed or cannot encode a text by usable ones.

    A closed descriptor would be taken by the next file that is opened. Characters that the encoding does not
    have are written as escapes. Streams that a caller has replaced stay as they are.
    """
    closed = sys.stdout is None
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  # lives as long as the process
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        raw = _Output(descriptor, "w", closefd=False)
        raw.was_closed = name == "stdout" and closed
        encoding = "utf-8" if stream is None else stream.encoding
        lines = name == "stderr" or raw.isatty()
        buffer = io.BufferedWriter(raw)  # type: ignore[type-var]  # its write takes any buffer, too
        wrapped = io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=lines)
        setattr(sys, name, wrapped)
        setattr(sys, f"__{name}__", wrapped)


def output_is_open() -> bool:
    """Return whether standard output was open when the process started."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return not (isinstance(raw, _Output) and raw.was_closed)


def close_output() -> None:
    """Flush standard output.

    Raises:
        UserError: if some of it could not be written, unless the reader, such as ``head``, has exited.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Output) and raw.error is not None and raw.error.errno != errno.EPIPE:
        raise UserError(f"standard output cannot be written: {raw.error.strerror}")

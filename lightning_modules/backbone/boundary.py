"""Conversion of any error raised while a backbone's files are read into a one-line error."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from promptstage.utilities.errors import UserError

SECONDS = 30.0
LONGEST = 300
OWN_ATTENTION = "its architecture has attention implementations of its own, which cannot be extended"


@contextmanager
def reading(name: str, part: str = "", seconds: float | None = SECONDS) -> Iterator[None]:
    """Convert any exception raised while a backbone's files are read into a one-line error.

    Args:
        name: the backbone, as the user named it.
        part: what is read, such as ``tokenizer``; empty for the model.
        seconds: CPU time after which reading is aborted; None: no limit.

    Raises:
        UserError: naming backbone, part and reason.
    """
    try:
        with deadline(seconds):
            yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a Rust panic in tokenizers is not an Exception
        what = f"{part} of backbone '{name}'" if part else f"backbone '{name}'"
        raise UserError(f"{what} cannot be loaded: {reason(error)}") from error


@contextmanager
def prefix_implementation(name: str) -> Iterator[str]:
    """Return the name of the attention implementation that takes a prefix, for loading backbone ``name``.

    Raises:
        UserError: if its architecture has its own attention implementations.
    """
    from promptstage.lightning_modules.backbone.attention import IMPLEMENTATION

    try:
        yield IMPLEMENTATION
    except KeyError as error:
        if error.args != (IMPLEMENTATION,):
            raise
        raise UserError(f"backbone '{name}' cannot take a prefix: {OWN_ATTENTION}") from error


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise TimeoutError after ``seconds`` of CPU time; time spent waiting for a disk does not count.

    Has no effect outside the main thread, on Windows, or if a limit of this kind is already set.
    """
    timed = seconds is not None and threading.current_thread() is threading.main_thread()
    timed &= hasattr(signal, "setitimer")
    if not timed or any(signal.getitimer(signal.ITIMER_PROF)):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"reading it takes more than {seconds:g} s of CPU time")

    assert seconds is not None
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def failure(what: str, error: Exception) -> str:
    """Return, as one line, that a model's own code fails on ``what``.

    Errors that mean something to its programmers only are not quoted.
    """
    quoted = not isinstance(error, KeyError | IndexError | AttributeError | TypeError | RecursionError)
    return f"its code fails on {what}" + (f": {reason(error)}" if quoted and str(error) else "")


def reason(error: BaseException) -> str:
    """Return an exception's message as one line of at most 300 printable characters."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    # A first line that ends in a colon only introduces the second.
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if not text or isinstance(error, KeyError | IndexError | AttributeError | RecursionError | MemoryError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

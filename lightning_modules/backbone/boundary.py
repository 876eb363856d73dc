"""The boundary around everything that reads a backbone's files: one line for whatever is wrong with them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from utilities.errors import UserError

SECONDS = 30.0
LONGEST = 300


@contextmanager
def reading(name: str, part: str = "", seconds: float | None = SECONDS) -> Iterator[None]:
    """Turn any exception raised while a backbone's files are read into one line.

    Args:
        name: the backbone, as the user named it.
        part: what is read, such as ``tokenizer``; empty for the model.
        seconds: processor time after which reading is given up; None: no limit.

    Raises:
        UserError: naming backbone, part and reason.
    """
    try:
        with deadline(seconds):
            yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of tokenizers, written in Rust, is no Exception
        what = f"{part} of backbone '{name}'" if part else f"backbone '{name}'"
        raise UserError(f"{what} cannot be loaded: {reason(error)}") from error


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise TimeoutError once the process has computed for ``seconds``; waiting for a disk is free.

    Without effect outside the main thread, and where a limit of this kind is set already.
    """
    timed = seconds is not None and threading.current_thread() is threading.main_thread()
    if not timed or any(signal.getitimer(signal.ITIMER_PROF)):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"reading it takes more than {seconds:g} s of processor time")

    assert seconds is not None
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def reason(error: BaseException) -> str:
    """An exception's message as one line of at most 300 printable characters."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    # The sentence is the second line's where the first one only announces it.
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if not text or isinstance(error, KeyError | IndexError | AttributeError | RecursionError | MemoryError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

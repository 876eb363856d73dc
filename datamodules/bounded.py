"""Calls of code from elsewhere, with a deadline and a memory limit."""

import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
MEMORY = 1 << 30  # bytes that a call may allocate
SPARE = 5  # seconds of computing after the deadline, should nobody be left to end the process


class CallError(Exception):
    """A bounded call that raised, took too long or too much memory; the message is one line."""


def bounded(function: Callable[[], T], seconds: float) -> T:
    """Return ``function()``, computed in a fork of this process that is killed at the deadline.

    A signal or a thread could not interrupt a single long operation, and neither bounds memory. Where there
    are no forks (Windows) the call has no bounds.

    Args:
        function: gives something that can be pickled; its side effects are lost.

    Raises:
        CallError: when it raises, takes longer than ``seconds`` or allocates more than ``MEMORY`` bytes.
    """
    succeeded, value = _forked(function, seconds) if hasattr(os, "fork") else _outcome(function)
    if not succeeded:
        raise CallError(value)
    result: T = value
    return result


def _forked(function: Callable[[], Any], seconds: float) -> tuple[bool, Any]:
    ours, theirs = Pipe(duplex=False)
    with ours, warnings.catch_warnings():
        # Newer Pythons warn of threads, which are not there in the child: it touches nothing of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            _answer(function, theirs, seconds)
        theirs.close()
        try:
            if not ours.poll(seconds):
                return False, f"it takes longer than {seconds:g} seconds"
            outcome: tuple[bool, Any] = ours.recv()
            return outcome
        except EOFError:
            return False, "it ended its process"
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _answer(function: Callable[[], Any], connection: Connection, seconds: float) -> NoReturn:
    """Send the outcome of a call, and end this process without any clean-up of its parent's."""
    try:
        _set_limits(seconds)
        connection.send(_outcome(function))
    finally:
        os._exit(0)


def _set_limits(seconds: float) -> None:
    import resource

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + SPARE, int(seconds) + SPARE))
    with suppress(OSError, ValueError):  # not on every system
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


def _outcome(function: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether ``function`` returned, and its value or what went wrong."""
    try:
        return True, function()
    except MemoryError:
        return False, f"it takes more than {MEMORY / (1 << 30):g} GiB of memory"
    except Exception as error:
        message = next(iter(str(error).strip().splitlines()), "")
        return False, f"{type(error).__name__}: {message!r:.200}"

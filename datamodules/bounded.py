"""Calls of untrusted code, with a deadline and a memory limit."""

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
SPARE = 5  # seconds of CPU time after the deadline, in case the parent has died


class CallError(Exception):
    """Failure of a bounded call: an exception, the deadline or the memory limit, as one line."""


def bounded(function: Callable[[], T], seconds: float) -> T:
    """Return ``function()``, computed in a fork of this process that is killed at the deadline.

    A signal or a thread could neither interrupt a single long operation nor bound its memory. On systems
    without fork (Windows) the call is not bounded.

    Args:
        function: function that returns a picklable value; its side effects are lost.
        seconds: wall-clock limit.

    Raises:
        CallError: if the function raises, takes longer than ``seconds`` or needs more than ``MEMORY`` bytes.
    """
    succeeded, value = _forked(function, seconds) if hasattr(os, "fork") else _outcome(function)
    if not succeeded:
        raise CallError(value)
    result: T = value
    return result


def _forked(function: Callable[[], Any], seconds: float) -> tuple[bool, Any]:
    receiver, sender = Pipe(duplex=False)
    with receiver, warnings.catch_warnings():
        # Python >= 3.12 warns about forks of threaded processes; the child uses no state of other threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            _send_outcome(function, sender, seconds)
        sender.close()
        try:
            if not receiver.poll(seconds):
                return False, f"it takes longer than {seconds:g} seconds"
            outcome: tuple[bool, Any] = receiver.recv()
            return outcome
        except EOFError:
            return False, "it ended its process"
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _send_outcome(function: Callable[[], Any], connection: Connection, seconds: float) -> NoReturn:
    """Send the outcome of a call, and exit without running the parent's clean-up handlers."""
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
    """Return (True, value) if ``function`` returns, else (False, description of the error)."""
    try:
        return True, function()
    except MemoryError:
        return False, f"it takes more than {MEMORY / (1 << 30):g} GiB of memory"
    except Exception as error:
        message = next(iter(str(error).strip().splitlines()), "")
        return False, f"{type(error).__name__}: {message!r:.200}"

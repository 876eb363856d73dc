"""Calls of code from elsewhere, with a deadline and a memory limit."""

import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
MEMORY = 1 << 30  # bytes that a call may allocate


class CallError(Exception):
    """A bounded call that raised, took too long or too much memory; the message is one line."""


def bounded(function: Callable[[], T], seconds: float) -> T:
    """Return ``function()``, computed in a fork of this process that is killed at the deadline.

    A signal or a thread could not interrupt a single long operation, and neither bounds memory.

    Args:
        function: gives something that can be pickled; its side effects are lost.

    Raises:
        CallError: when it raises, takes longer than ``seconds`` or allocates more than ``MEMORY`` bytes.
    """
    ours, theirs = Pipe(duplex=False)
    with ours, warnings.catch_warnings():
        # Newer Pythons warn of threads, which are not there in the child: it touches nothing of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            _answer(function, theirs)
        theirs.close()
        try:
            succeeded, value = _receive(ours, time.monotonic() + seconds, seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if not succeeded:
        raise CallError(value)
    return value


def _receive(connection: Connection, until: float, seconds: float) -> tuple[bool, Any]:
    """Whether the call succeeded, and its value or what went wrong."""
    if not connection.poll(until - time.monotonic()):
        return False, f"it takes longer than {seconds:g} seconds"
    try:
        outcome: tuple[bool, Any] = connection.recv()
        return outcome
    except EOFError:
        return False, "it ended its process"


def _answer(function: Callable[[], T], connection: Connection) -> None:
    """Send whether ``function`` returned, and what; end the process without any clean-up of the parent's."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    except (OSError, ValueError):
        pass  # no such limit on this system; the deadline stays
    try:
        outcome: tuple[bool, T | str] = True, function()
    except MemoryError:
        outcome = False, f"it takes more than {MEMORY >> 30} GiB of memory"
    except BaseException as error:
        message = next(iter(str(error).strip().splitlines()), "")
        outcome = False, f"{type(error).__name__}: {message!r:.200}"
    try:
        connection.send(outcome)
    finally:
        os._exit(0)

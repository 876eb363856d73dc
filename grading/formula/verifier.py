"""Equality of two formulas with math-verify, in separate processes with a deadline.

math-verify's own timeout is an alarm signal, which works in the main thread only and does not interrupt a
long integer operation. Here a worker process (``verifier_process``) imports it once, and a fork of the worker
compares formulas until it misses a deadline, is killed, and is replaced. Comparisons therefore work in any
thread and process, use no signals in the caller, and never take longer than their deadline.

A worker is reused for the next comparison of any thread. It exits with this process, even if that is killed,
since its connection is then closed.
"""

import atexit
import os
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing import Pipe
from typing import Any

from promptstage.utilities.errors import UserError
from promptstage.utilities.run_module import module_command

START_TIMEOUT = 120  # seconds for a worker to start; usually about two are needed
REPLY_GRACE = 5  # seconds after a missed deadline until a worker is considered dead

_PROGRAM = "promptstage.grading.formula.verifier_process"
_workers: set["_Worker"] = set()
_idle: deque["_Worker"] = deque()  # its methods are atomic, so threads need no lock


class _StartupWait(threading.local):
    """Seconds that this thread has waited for workers to start."""

    seconds = 0.0


_startup_wait = _StartupWait()


def clock() -> float:
    """Return monotonic time in seconds, excluding this thread's waits for workers to start.

    The first comparison thus has as much time before a deadline as any other.
    """
    return time.monotonic() - _startup_wait.seconds


def verify_equality(prediction: str, reference: str, seconds: float) -> bool | None:
    """Return whether two LaTeX formulas are mathematically equal; None if that takes longer than ``seconds``.

    The start of a worker, a few seconds at the first comparison, does not count.

    Raises:
        UserError: if no worker can start, for example because math-verify is not installed.
    """
    deadline = clock() + seconds
    # Retry once if the worker was killed by something other than the deadline.
    for _ in range(2):
        if clock() >= deadline:
            break
        worker = _idle_or_new()
        try:
            verdict = worker.ask(prediction, reference, deadline - clock())
        except (EOFError, OSError):
            worker.stop()
        except BaseException:  # a half-read reply would be mistaken for the next one
            worker.stop()
            raise
        else:
            _idle.append(worker)
            return verdict
    return None


def _idle_or_new() -> "_Worker":
    with suppress(IndexError):
        while True:
            worker = _idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.stop()  # it was killed
    start = time.monotonic()
    try:
        return _Worker()
    finally:
        _startup_wait.seconds += time.monotonic() - start


class _Worker:
    """Worker process that compares formulas, one pair at a time, and the connection to it.

    Raises:
        UserError: if it cannot start.
    """

    def __init__(self) -> None:
        self._connection, worker_end = Pipe()
        with worker_end:
            self.process = subprocess.Popen(
                module_command(_PROGRAM),
                stdin=worker_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0
                if os.name == "posix"
                else None,  # Ctrl-C must not reach the worker: this process may continue
            )
        _workers.add(self)
        try:
            problem = self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        if problem:
            self.stop()
            raise UserError(f"formulas cannot be compared: {problem}")

    def _wait_until_ready(self) -> str | None:
        """Wait until the worker is ready; return a description of the problem if it cannot start."""
        try:
            return self._receive(START_TIMEOUT)
        except TimeoutError:
            return f"the worker process did not start within {START_TIMEOUT} seconds"
        except (EOFError, OSError):
            return f"the worker process ended with exit code {self.process.wait()}"

    def ask(self, prediction: str, reference: str, seconds: float) -> bool | None:
        """Return whether the formulas are equal; None after ``seconds``.

        Raises:
            EOFError, OSError: if the worker is dead or does not reply.
        """
        self._connection.send((prediction, reference, seconds))
        return self._receive(seconds + REPLY_GRACE)

    def _receive(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv()

    def stop(self) -> None:
        """End the process and release its resources: no zombie, no open file."""
        self.process.kill()
        self.process.wait()
        self._connection.close()
        _workers.discard(self)

    def detach(self) -> None:
        """Close the connection in a fork of the owner, which would otherwise keep the worker alive."""
        self._connection.close()
        self.process.returncode = 0  # not a child of this process, which therefore cannot wait for it


def _detach_workers() -> None:
    for worker in _workers:
        worker.detach()
    _workers.clear()
    _idle.clear()


def _stop_idle() -> None:
    while _idle:
        _idle.pop().stop()


atexit.register(_stop_idle)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_detach_workers)

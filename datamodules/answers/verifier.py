"""Equality of two formulas by math-verify, in processes of their own that a deadline can end.

math-verify's own time limit is an alarm signal, which only a main thread can have, and which does not
interrupt a long integer operation. Here a worker (``verifier_process``) imports it once, and a fork of the
worker answers until it is late, is killed and gives way to the next. So this works in any thread and process,
needs no signals here, and nothing computed by mistake costs more than the time it is given.

A worker stays for the next question, of this or another thread. It ends with this process, however that ends:
it then finds its connection closed.
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

START = 120  # seconds that a worker may take to start; usually about two
SLACK = 5  # seconds after a deadline until a worker that should have kept it counts as dead

_PROGRAM = "promptstage.datamodules.answers.verifier_process"
_workers: set["_Worker"] = set()
_idle: deque["_Worker"] = deque()  # its methods are atomic, so that threads need no lock


class _Waited(threading.local):
    """How long this thread has waited for workers to start."""

    seconds = 0.0


_waited = _Waited()


def clock() -> float:
    """``time.monotonic``, but standing still while this thread waits for a worker to start.

    By this clock a deadline is as far away for the first comparison as for any other.
    """
    return time.monotonic() - _waited.seconds


def verified(given: str, reference: str, seconds: float) -> bool | None:
    """Whether two LaTeX formulas are equal as mathematics; None when that takes longer than ``seconds``.

    The start of a worker, a few seconds for the first question, does not count.

    Raises:
        UserError: when no worker can start, as without math-verify.
    """
    until = clock() + seconds
    # Once more, should the worker have been killed by something else than the deadline.
    for _ in range(2):
        if clock() >= until:
            break
        worker = _idle_or_new()
        try:
            verdict = worker.ask(given, reference, until - clock())
        except (EOFError, OSError):
            worker.stop()
        except BaseException:  # a half-read answer would be taken for the next one's
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
            worker.stop()  # it has been killed
    start = time.monotonic()
    try:
        return _Worker()
    finally:
        _waited.seconds += time.monotonic() - start


class _Worker:
    """A process that compares formulas, one question at a time, and the connection to it.

    Raises:
        UserError: when it cannot start.
    """

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                module_command(_PROGRAM),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for this process, which may want to go on
            )
        _workers.add(self)
        try:
            problem = self._started()
        except BaseException:
            self.stop()
            raise
        if problem:
            self.stop()
            raise UserError(f"formulas cannot be compared: {problem}")

    def _started(self) -> str | None:
        """Wait for the start; what went wrong, if something did."""
        try:
            return self._receive(START)
        except TimeoutError:
            return f"the process for it did not start within {START} seconds"
        except (EOFError, OSError):
            return f"the process for it ended with exit code {self.process.wait()}"

    def ask(self, given: str, reference: str, seconds: float) -> bool | None:
        """Whether the formulas are equal; None after ``seconds``.

        Raises:
            EOFError, OSError: when the worker is dead, or must be taken for dead.
        """
        self._connection.send((given, reference, seconds))
        return self._receive(seconds + SLACK)

    def _receive(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv()

    def stop(self) -> None:
        """End the process, and leave nothing of it: no zombie, no open file."""
        self.process.kill()
        self.process.wait()
        self._connection.close()
        _workers.discard(self)

    def forget(self) -> None:
        """In a fork of the owner: keep nothing open by which the worker would outlive the owner."""
        self._connection.close()
        self.process.returncode = 0  # not a child of this process, and not to be waited for


def _forget_workers() -> None:
    for worker in _workers:
        worker.forget()
    _workers.clear()
    _idle.clear()


def _stop_idle() -> None:
    while _idle:
        _idle.pop().stop()


atexit.register(_stop_idle)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_workers)

"""Equality of two formulas with math-verify, in separate processes with a limit of CPU time.

math-verify's own timeout is an alarm signal, which works in the main thread only and does not interrupt a
long integer operation. Here a worker process (``verifier_process``) imports it once, and a fork of the worker
compares formulas. A comparison that takes too much CPU time ends the fork, which is then replaced.
Comparisons therefore work in any thread and process, use no signals in the caller, and are always bounded.

A worker is reused for the next comparison of any thread. It exits with this process, even if that is killed,
since its connection is then closed.
"""

import atexit
import os
import subprocess
from collections import deque
from contextlib import suppress
from multiprocessing import Pipe
from typing import Any

from promptstage.grading.formula.budget import Budget, hang_timeout
from promptstage.utilities.errors import UserError
from promptstage.utilities.run_module import module_command

START_TIMEOUT = 120  # seconds for a worker to start; usually about two are needed
REPLY_GRACE = 5  # seconds after the timeout of a hung fork until its worker is considered dead

_PROGRAM = "promptstage.grading.formula.verifier_process"
_workers: set["_Worker"] = set()
_idle: deque["_Worker"] = deque()  # its methods are atomic, so threads need no lock


def verify_equality(prediction: str, reference: str, budget: Budget) -> bool | None:
    """Return whether two LaTeX formulas are mathematically equal; None if the budget does not suffice.

    Args:
        budget: CPU time, which is reduced by what the comparison used. The start of a worker does not count.

    Raises:
        UserError: if no worker can start, for example because math-verify is not installed.
    """
    if budget.seconds <= 0:
        return None
    for _ in range(2):  # retry once if the worker was killed
        worker = _idle_or_new()
        try:
            verdict, used = worker.ask(prediction, reference, budget.seconds)
        except (EOFError, OSError):
            worker.stop()
        except BaseException:  # a half-read reply would be mistaken for the next one
            worker.stop()
            raise
        else:
            _idle.append(worker)
            budget.seconds -= used
            return verdict
    budget.seconds = 0
    return None


def _idle_or_new() -> "_Worker":
    with suppress(IndexError):
        while True:
            worker = _idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.stop()  # it was killed
    return _Worker()


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

    def ask(self, prediction: str, reference: str, seconds: float) -> tuple[bool | None, float]:
        """Return whether the formulas are equal, None after CPU ``seconds``, and the CPU seconds used.

        Raises:
            EOFError, OSError: if the worker is dead or does not reply.
        """
        self._connection.send((prediction, reference, seconds))
        verdict, used = self._receive(hang_timeout(seconds) + REPLY_GRACE)
        return verdict, used

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

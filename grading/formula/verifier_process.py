"""Worker process of ``verifier``, which compares formulas for its owner.

Its standard input is a connection to the owner. The worker first sends None when it is ready, or a
description of the problem. It then receives requests (two formulas and a limit of CPU seconds) and replies
with True, False, or None after a timeout, and the CPU seconds used, until the owner closes the connection.
"""

import contextlib
import multiprocessing
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection, Pipe

from promptstage.grading.formula.budget import hang_timeout

MEMORY = 2 << 30  # bytes of address space for a comparison
GRACE = 1  # seconds after its timeout until a hung fork that was not killed exits by itself

_FORKING = multiprocessing.get_context("fork")


def serve(owner: Connection) -> None:
    """Reply to the requests of ``owner`` until it closes the connection."""
    _reset_signals()
    problem = _warm_up()
    owner.send(problem)
    if problem:
        return
    fork = _Fork(owner)
    while True:
        try:
            prediction, reference, seconds = owner.recv()
        except EOFError:
            break
        if not fork.is_alive():  # it was killed in the meantime
            fork = fork.replace()
        verdict, used = fork.ask(prediction, reference, seconds)
        owner.send((verdict, used))
        if verdict is None:
            fork = fork.replace()
    fork.stop()


def _reset_signals() -> None:
    """Restore default signal handling: the worker needs signals that the owner may block or ignore."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)


def _warm_up() -> str | None:
    """Load everything that the forks share; return a description of the problem if that fails."""
    try:
        from promptstage.grading.formula.algebra import WARM_UP_PAIRS, formulas_equal

        for prediction, reference in WARM_UP_PAIRS:
            formulas_equal(prediction, reference)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


class _Fork:
    """Fork of this initialized process, used until a comparison takes too much CPU time.

    Args:
        owner: the connection that the fork must close.
    """

    def __init__(self, owner: Connection) -> None:
        self._owner = owner
        self._connection, fork_end = Pipe()
        with fork_end:
            self._process = _FORKING.Process(
                target=_run_fork, args=(fork_end, (self._connection, owner)), daemon=True
            )
            self._process.start()

    def ask(self, prediction: str, reference: str, seconds: float) -> tuple[bool | None, float]:
        """Return whether the formulas are equal, and the CPU seconds used.

        The verdict is None, and all ``seconds`` count as used, if the fork is dead (as it is after that much
        CPU time) or hung. It must then be replaced.
        """
        with contextlib.suppress(EOFError, OSError):
            self._connection.send((prediction, reference, seconds))
            if self._connection.poll(hang_timeout(seconds)):
                verdict, used = self._connection.recv()
                return verdict, used
        return None, seconds

    def is_alive(self) -> bool:
        """Return whether the fork is running."""
        return self._process.is_alive()

    def replace(self) -> "_Fork":
        """Stop this fork and return a new one."""
        self.stop()
        return _Fork(self._owner)

    def stop(self) -> None:
        """End the fork and release its resources."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _run_fork(questions: Connection, inherited: tuple[Connection, ...]) -> None:
    """Reply to requests in a fork until the connection is closed."""
    from promptstage.grading.formula.algebra import formulas_equal

    for connection in inherited:
        connection.close()
    _limit_memory()
    while True:
        try:
            prediction, reference, seconds = questions.recv()
        except EOFError:
            return
        # The default action of both signals ends the fork, even within a long integer operation.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, hang_timeout(seconds) + GRACE)  # in case the worker is killed
        start = time.process_time()
        try:
            same = formulas_equal(prediction, reference)
        except Exception:  # malformed input can raise anything in the parser and in sympy
            same = False
        used = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        questions.send((same, used))


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    serve(Connection(sys.stdin.fileno()))

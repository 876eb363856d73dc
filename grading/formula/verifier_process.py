"""Worker process of ``verifier``, which compares formulas for its owner.

Its standard input is a connection to the owner. The worker first sends None when it is ready, or a
description of the problem. It then receives requests (two formulas and a number of seconds) and replies True,
False, or None after a timeout, until the owner closes the connection.
"""

import contextlib
import multiprocessing
import resource
import signal
import sys
from multiprocessing.connection import Connection, Pipe

MEMORY = 2 << 30  # bytes of address space for a comparison
GRACE = 1  # seconds after a deadline until a fork that was not killed exits by itself

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
        verdict = fork.ask(prediction, reference, seconds)
        owner.send(verdict)
        if verdict is None:
            fork = fork.replace()
    fork.stop()


def _reset_signals() -> None:
    """Restore default signal handling: the worker needs SIGCHLD and SIGALRM, which the owner may block."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGCHLD, signal.SIGALRM):
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
    """Fork of this initialized process, used until it misses a deadline.

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

    def ask(self, prediction: str, reference: str, seconds: float) -> bool | None:
        """Return whether the formulas are equal; None if the fork is late or dead and must be replaced."""
        try:
            self._connection.send((prediction, reference, seconds))
            return self._connection.recv() if self._connection.poll(seconds) else None
        except (EOFError, OSError):
            return None

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
        # Ends the fork if the worker itself is killed.
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        try:
            same = formulas_equal(prediction, reference)
        except Exception:  # malformed input can raise anything in the parser and in sympy
            same = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        questions.send(same)


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    serve(Connection(sys.stdin.fileno()))

"""The worker of ``verifier``: a process that compares formulas for its owner.

Its standard input is a connection to the owner. First it sends None when it is ready, or what keeps it
from being so. Then it takes questions (two formulas and a number of seconds) and sends back True, False, or
None for one that took longer, until the owner closes the connection.
"""

import contextlib
import multiprocessing
import resource
import signal
import sys
from multiprocessing.connection import Connection, Pipe

MEMORY = 2 << 30  # bytes of address space a comparison may take
GRACE = 1  # seconds after a deadline until a fork that nobody has killed ends by itself

_FORKING = multiprocessing.get_context("fork")


def serve(owner: Connection) -> None:
    """Answer the questions of ``owner`` until there are no more."""
    _reset_signals()
    problem = _warm_up()
    owner.send(problem)
    if problem:
        return
    fork = _Fork(owner)
    while True:
        try:
            given, reference, seconds = owner.recv()
        except EOFError:
            break
        if not fork.is_alive():  # it has been killed since
            fork = fork.replaced()
        verdict = fork.ask(given, reference, seconds)
        owner.send(verdict)
        if verdict is None:
            fork = fork.replaced()
    fork.stop()


def _reset_signals() -> None:
    """Undo what an owner may have blocked or ignored: the end of a fork and its alarm have to be noticed."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)


def _warm_up() -> str | None:
    """Load what all forks then have; what went wrong, if something did."""
    try:
        from promptstage.datamodules.answers.algebra import EXAMPLES, equal

        for given, reference in EXAMPLES:
            equal(given, reference)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


class _Fork:
    """A copy of this warm process, which answers until it is late.

    Args:
        owner: the connection that the copy must not keep open.
    """

    def __init__(self, owner: Connection) -> None:
        self._owner = owner
        self._connection, theirs = Pipe()
        with theirs:
            self._process = _FORKING.Process(
                target=_answer, args=(theirs, (self._connection, owner)), daemon=True
            )
            self._process.start()

    def ask(self, given: str, reference: str, seconds: float) -> bool | None:
        """Whether the formulas are equal; None when the fork is late or has died, and has to be stopped."""
        try:
            self._connection.send((given, reference, seconds))
            return self._connection.recv() if self._connection.poll(seconds) else None
        except (EOFError, OSError):
            return None

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def replaced(self) -> "_Fork":
        """A new one instead of this one, which ends."""
        self.stop()
        return _Fork(self._owner)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _answer(questions: Connection, inherited: tuple[Connection, ...]) -> None:
    """A fork's whole life."""
    from promptstage.datamodules.answers.algebra import equal

    for connection in inherited:
        connection.close()
    _limit_memory()
    while True:
        try:
            given, reference, seconds = questions.recv()
        except EOFError:
            return
        # Should the worker itself be killed, there is nobody else to end this.
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        try:
            same = equal(given, reference)
        except Exception:  # whatever parser and algebra make of odd input, it is not shown to be equal
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

"""Equality of two formulas by math-verify, in a process of its own that a deadline can end.

math-verify's own time limit is an alarm signal, which only a main thread can have, and which does not
interrupt a long integer operation. Here a worker process imports it once, and a fork of it answers until it
is late, is killed and gives way to the next. So it works in any thread and process, and nothing computed by mistake costs
more than the time it is given.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, NoReturn

MEMORY = 2 << 30  # bytes of address space a comparison may take

# Compared once before the first fork: what sympy and the parser load and remember, every fork then has.
_WARMING = (
    (r"\frac{1+\sqrt{2}}{2}", r"\frac{1}{2}+\sqrt{2}"),
    ("x^3+3x-6", "x^3+3x+6"),
    (r"\sin(2\pi x)", r"2\sin(\pi x)\cos(\pi x)"),
    ("5x-7y-4=0", "5x-7y+4=0"),
    (r"x\le 2", r"(-\infty,2]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    (r"\log_2 8-7!", "3^{100}-2^{98}i"),
)

_ROOT = Path(__file__).parents[2]
_lock = threading.Lock()
_idle: list["_Worker"] = []


class _Worker:
    """A worker process and the process that owns it."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
        )
        self.owner = os.getpid()

    def ask(self, given: str, reference: str, seconds: float) -> bool | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([given, reference, seconds]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise BrokenPipeError
        return json.loads(answer)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def verified(given: str, reference: str, seconds: float) -> bool | None:
    """Whether two LaTeX formulas are equal as mathematics; None when that takes longer than ``seconds``.

    The first comparison of a process also waits for the worker to start, a few seconds.
    """
    if seconds <= 0:
        return None
    with _lock:
        # A forked process must not share its parent's worker.
        _idle[:] = [worker for worker in _idle if worker.owner == os.getpid()]
        worker = _idle.pop() if _idle else None
    worker = worker or _Worker()
    try:
        result = worker.ask(given, reference, seconds)
    except (BrokenPipeError, ValueError):
        worker.stop()
        return None
    except BaseException:
        worker.stop()
        raise
    with _lock:
        _idle.append(worker)
    return result


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer questions line by line until there are no more."""
    for given, reference in _WARMING:
        _equal(given, reference)
    fork = None
    for line in questions:
        fork = fork or _Fork()
        answer = fork.ask(line, json.loads(line)[2])
        if answer is None:
            fork.stop()
            fork = None
        answers.write((answer or "null") + "\n")
        answers.flush()


class _Fork:
    """A copy of the warm worker that answers questions until it is late."""

    def __init__(self) -> None:
        reading, their_writing = os.pipe()
        their_reading, writing = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(reading)
            os.close(writing)
            _answer(os.fdopen(their_reading), os.fdopen(their_writing, "w"))
        os.close(their_reading)
        os.close(their_writing)
        self.reading, self.writing = os.fdopen(reading), os.fdopen(writing, "w")

    def ask(self, line: str, seconds: float) -> str | None:
        self.writing.write(line)
        self.writing.flush()
        ready, _, _ = select.select([self.reading], [], [], seconds)
        return self.reading.readline().strip() or None if ready else None

    def stop(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        self.reading.close()
        self.writing.close()


def _answer(questions: IO[str], answers: IO[str]) -> NoReturn:
    """A fork's whole life."""
    try:
        _limit()
        for line in questions:
            given, reference, _ = json.loads(line)
            try:
                same = _equal(given, reference)
            except Exception:  # whatever parser and algebra make of odd input, it is not shown to be equal
                same = False
            answers.write(json.dumps(same) + "\n")
            answers.flush()
    finally:
        os._exit(0)


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _equal(given: str, reference: str) -> bool:
    from math_verify import parse, verify

    target, gold = (parse(f"${formula}$", parsing_timeout=None) for formula in (given, reference))
    if not gold or not target:
        return False
    same = _numerically(gold[0], target[0])
    return bool(verify(gold, target, timeout_seconds=None)) if same is None else same


def _numerically(gold: Any, target: Any) -> bool | None:
    """Whether two expressions agree to many digits, at three places if they have variables.

    math-verify rounds to six places, which makes 1/2^98 and 1/2^99 equal, and is slow to tell unequal
    expressions apart. None for anything that has no value: sets, relations, matrices.
    """
    from sympy import Expr, Float, N, Rational

    if not isinstance(gold, Expr) or not isinstance(target, Expr):
        return None
    if gold.is_rational and target.is_rational and not (gold.has(Float) or target.has(Float)):
        return bool(gold.doit() == target.doit())
    tolerance = 1e-12 if gold.has(Float) or target.has(Float) else 1e-30
    symbols = sorted(gold.free_symbols | target.free_symbols, key=str)
    places = (Rational(137, 113), Rational(-211, 97), Rational(59, 83))
    for place in places if symbols else places[:1]:
        # Different values for different variables.
        values = {symbol: place * (i + 1) + Rational(i, 7) for i, symbol in enumerate(symbols)}
        one, other = N(gold.subs(values), 50), N(target.subs(values), 50)
        if not (one.is_number and other.is_number and one.is_finite and other.is_finite):
            return None
        if abs(one - other) > tolerance * max(abs(one), abs(other)):
            return False
    return True


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin, sys.stdout)

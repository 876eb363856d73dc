"""Formulas are compared in any thread and process, with a deadline."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from promptstage.datamodules.answers import verifier
from promptstage.datamodules.answers.verifier import verified

SLOW = r"\binom{10^9}{5\cdot 10^8}"


def test_equal_and_unequal() -> None:
    assert verified("x^2+2x+1", "(x+1)^2", 10) is True
    assert verified("x^2+2x-1", "(x+1)^2", 10) is False
    assert verified(r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", 10) is False
    assert verified("3^{2007}-1", "3^{2007}", 10) is False
    assert verified("}{", r"\frac{", 10) is False


def test_the_deadline_is_kept() -> None:
    verified("x", "y", 10)
    start = time.monotonic()
    assert verified(SLOW, "1", 0.5) is None
    assert time.monotonic() - start < 1
    assert verified("x", "y", 0) is None
    assert verified("2x", "x+x", 10) is True


def test_in_threads() -> None:
    pairs = [(f"(x+{i})^2", f"x^2+{2 * i}x+{i * i}") for i in range(1, 9)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda pair: verified(*pair, 20), pairs)) == [True] * len(pairs)
    handler = signal.getsignal(signal.SIGALRM)
    found: list[bool | None] = []
    thread = threading.Thread(target=lambda: found.append(verified("x", "2x", 10)))
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGALRM) is handler


def _answer(queue: "multiprocessing.Queue[bool | None]") -> None:
    queue.put(verified("a+b", "b+a", 20))


def test_in_a_forked_process_that_inherits_a_worker() -> None:
    assert verified("a+b", "b+a", 10)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[bool | None] = context.Queue()
    process = context.Process(target=_answer, args=(queue,), daemon=True)
    process.start()
    assert queue.get(timeout=60) is True
    process.join()
    assert verified("a+b", "a-b", 10) is False


def test_a_dead_worker_is_replaced() -> None:
    assert verified("a+b", "b+a", 10)
    for worker in verifier._idle:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    verified("a+b", "b+a", 10)
    assert verified("a+b", "b+a", 20) is True

"""Tests of comparing formulas with a deadline, in any thread and process."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from promptstage.grading.formula import verifier
from promptstage.grading.formula.verifier import verify_equality

SLOW = r"\binom{10^9}{5\cdot 10^8}"


def test_equal_and_unequal_formulas_are_distinguished() -> None:
    assert verify_equality("x^2+2x+1", "(x+1)^2", 10) is True
    assert verify_equality("x^2+2x-1", "(x+1)^2", 10) is False
    assert verify_equality(r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", 10) is False
    assert verify_equality("3^{2007}-1", "3^{2007}", 10) is False
    assert verify_equality("}{", r"\frac{", 10) is False


def test_the_deadline_is_met() -> None:
    verify_equality("x", "y", 10)
    start = time.monotonic()
    assert verify_equality(SLOW, "1", 0.5) is None
    assert time.monotonic() - start < 1
    assert verify_equality("x", "y", 0) is None
    assert verify_equality("2x", "x+x", 10) is True


def test_threads_compare_without_changing_signal_handlers() -> None:
    pairs = [(f"(x+{i})^2", f"x^2+{2 * i}x+{i * i}") for i in range(1, 9)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda pair: verify_equality(*pair, 20), pairs)) == [True] * len(pairs)
    handler = signal.getsignal(signal.SIGALRM)
    results: list[bool | None] = []
    thread = threading.Thread(target=lambda: results.append(verify_equality("x", "2x", 10)))
    thread.start()
    thread.join()
    assert results == [False]
    assert signal.getsignal(signal.SIGALRM) is handler


def _compare(queue: "multiprocessing.Queue[bool | None]") -> None:
    queue.put(verify_equality("a+b", "b+a", 20))


def test_a_forked_process_that_inherits_a_worker_compares() -> None:
    assert verify_equality("a+b", "b+a", 10)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[bool | None] = context.Queue()
    process = context.Process(target=_compare, args=(queue,), daemon=True)
    process.start()
    assert queue.get(timeout=60) is True
    process.join()
    assert verify_equality("a+b", "a-b", 10) is False


def test_a_dead_worker_is_replaced() -> None:
    assert verify_equality("a+b", "b+a", 10)
    for worker in verifier._idle:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    verify_equality("a+b", "b+a", 10)
    assert verify_equality("a+b", "b+a", 20) is True

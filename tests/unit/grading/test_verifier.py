"""Tests of comparing formulas with a limit of CPU time, in any thread and process."""

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe

import pytest

from promptstage.grading.formula import verifier, verifier_process
from promptstage.grading.formula.budget import Budget
from promptstage.grading.formula.verifier import verify_equality

SLOW = r"\binom{10^9}{5\cdot 10^8}"


def test_equal_and_unequal_formulas_are_distinguished() -> None:
    assert verify_equality("x^2+2x+1", "(x+1)^2", Budget(10)) is True
    assert verify_equality("x^2+2x-1", "(x+1)^2", Budget(10)) is False
    assert verify_equality(r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", Budget(10)) is False
    assert verify_equality("3^{2007}-1", "3^{2007}", Budget(10)) is False
    assert verify_equality("}{", r"\frac{", Budget(10)) is False


def test_a_comparison_uses_up_its_budget() -> None:
    budget = Budget(10)
    assert verify_equality("2x", "x+x", budget) is True
    assert 0 < budget.seconds < 10
    budget.seconds = 0.5
    assert verify_equality(SLOW, "1", budget) is None
    assert budget.seconds == 0
    assert verify_equality("2x", "x+x", budget) is None
    assert verify_equality("2x", "x+x", Budget(10)) is True


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Iterator[verifier_process._Fork]:
    """Start a fork that compares formulas, as the worker does."""
    # This process, unlike the worker, may hold more than the limit already.
    monkeypatch.setattr(verifier_process, "_limit_memory", lambda: None)
    assert verifier_process._warm_up() is None
    owner, worker_end = Pipe()
    with owner, worker_end:
        fork = verifier_process._Fork(worker_end)
        yield fork
        fork.stop()


@pytest.mark.parametrize("formula", [SLOW, "9^{9^{9^9}}"])
def test_a_comparison_ends_after_its_cpu_time(fork: verifier_process._Fork, formula: str) -> None:
    before = _cpu_seconds_of_children()
    assert fork.ask(formula, "1", 0.5) == (None, 0.5)
    fork.stop()
    assert _cpu_seconds_of_children() - before < 1.5


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_slow_machine_does_not_change_a_verdict(fork: verifier_process._Fork) -> None:
    pid = fork._process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(2, os.kill, (pid, signal.SIGCONT))
    timer.start()
    start = time.monotonic()
    verdict, used = fork.ask("(x+1)^2", "x^2+2x+1", 1.5)
    timer.join()
    assert verdict is True
    assert used < 1.5 < time.monotonic() - start


def test_a_hung_comparison_is_given_up(fork: verifier_process._Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_process, "hang_timeout", lambda seconds: 0.2)
    assert fork._process.pid is not None
    os.kill(fork._process.pid, signal.SIGSTOP)
    assert fork.ask("x", "x", 1.5) == (None, 1.5)


def test_threads_compare_without_changing_signal_handlers() -> None:
    pairs = [(f"(x+{i})^2", f"x^2+{2 * i}x+{i * i}") for i in range(1, 9)]
    with ThreadPoolExecutor(4) as threads:
        verdicts = threads.map(lambda pair: verify_equality(*pair, Budget(20)), pairs)
        assert list(verdicts) == [True] * len(pairs)
    handler = signal.getsignal(signal.SIGALRM)
    results: list[bool | None] = []
    thread = threading.Thread(target=lambda: results.append(verify_equality("x", "2x", Budget(10))))
    thread.start()
    thread.join()
    assert results == [False]
    assert signal.getsignal(signal.SIGALRM) is handler


def _compare(queue: "multiprocessing.Queue[bool | None]") -> None:
    queue.put(verify_equality("a+b", "b+a", Budget(20)))


def test_a_forked_process_that_inherits_a_worker_compares() -> None:
    assert verify_equality("a+b", "b+a", Budget(10))
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[bool | None] = context.Queue()
    process = context.Process(target=_compare, args=(queue,), daemon=True)
    process.start()
    assert queue.get(timeout=60) is True
    process.join()
    assert verify_equality("a+b", "a-b", Budget(10)) is False


def test_a_dead_worker_is_replaced() -> None:
    assert verify_equality("a+b", "b+a", Budget(10))
    for worker in verifier._idle:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    verify_equality("a+b", "b+a", Budget(10))
    assert verify_equality("a+b", "b+a", Budget(20)) is True

"""Paired comparisons of two methods against enumeration and simulation."""

from itertools import product

import numpy as np
import pytest

from promptstage.lightning_modules.functional.paired import difference_interval, mcnemar_p, paired_p
from promptstage.lightning_modules.functional.statistics import accuracy_interval


def by_enumeration(before: np.ndarray, after: np.ndarray) -> float:
    """Every pattern of signs of the questions' differences, one by one."""
    difference = (after.astype(int) - before.astype(int)).sum(0)
    sums = [abs(np.dot(signs, difference)) for signs in product((-1, 1), repeat=len(difference))]
    return float(np.mean([total >= abs(difference.sum()) for total in sums]))


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_p_is_that_of_all_sign_flips_of_questions(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    for _ in range(8):
        before, after = random.random((2, seeds, 11)) < np.array([0.4, 0.7])[:, None, None]
        assert paired_p(before, after) == pytest.approx(by_enumeration(before, after), abs=1e-12)


def test_p_of_one_seed_is_mcnemars() -> None:
    before = np.array([[True] * 3 + [False] * 12 + [True] * 5])
    after = np.array([[False] * 3 + [True] * 12 + [True] * 5])
    assert paired_p(before, after) == pytest.approx(mcnemar_p(12, 3), abs=1e-12)
    assert paired_p(before, before) == 1.0


def test_p_of_repeated_seeds_does_not_shrink() -> None:
    """The same answers with three seeds are no more evidence than with one."""
    before, after = np.array([[False] * 9 + [True]]), np.array([[True] * 9 + [False]])
    assert paired_p(before.repeat(3, 0), after.repeat(3, 0)) == pytest.approx(paired_p(before, after))


@pytest.mark.parametrize("seeds", [1, 4])
def test_interval_of_a_difference_covers_the_true_one(seeds: int) -> None:
    """Questions of their own difficulty; about 95 of 100 samples must cover it."""
    random, covered = np.random.default_rng(0), 0
    for _ in range(100):
        hard = random.random(120)
        before, after = random.random((2, seeds, 120)) < (np.array([0.0, 0.1])[:, None] + 0.8 * hard)[:, None]
        low, high = difference_interval(before, after)
        covered += low <= 0.1 <= high
    assert 89 <= covered <= 100


def test_pairing_makes_the_interval_narrower() -> None:
    random = np.random.default_rng(1)
    before = random.random((1, 400)) < 0.5
    after = before ^ (random.random((1, 400)) < 0.05)
    paired = difference_interval(before, after)
    alone = [accuracy_interval(grades) for grades in (before, after)]
    assert paired.high - paired.low < 0.7 * sum(interval.high - interval.low for interval in alone) / 2


def test_nothing_changed_is_no_certainty() -> None:
    same = np.ones((1, 50), dtype=bool)
    low, high = difference_interval(same, same)
    assert low < -0.01 < 0.01 < high


def test_the_order_of_questions_and_seeds_changes_nothing_of_a_single_seed() -> None:
    random = np.random.default_rng(2)
    before, after = random.random((2, 1, 90)) < 0.5
    order = random.permutation(90)
    assert difference_interval(before, after) == difference_interval(before[:, order], after[:, order])
    assert paired_p(before, after) == paired_p(before[:, order], after[:, order])

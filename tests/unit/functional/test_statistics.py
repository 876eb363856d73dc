"""Intervals, tests of two groups and measures of a detector against direct sums over their definitions."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from promptstage.lightning_modules.functional.statistics import (
    accuracy_interval,
    auroc,
    average_precision,
    compare_groups,
    fisher_p,
    precision_recall,
    seed_means,
    seeds_interval,
    wilson_interval,
)


def test_wilson_is_that_of_the_textbook() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert accuracy_interval(np.arange(10)[None] < 8) == wilson_interval(8, 10)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_over_seeds_has_the_quantile_of_students_density(seeds: int) -> None:
    """The density is integrated over the interval, in units of the standard error."""
    values = np.random.default_rng(seeds).normal(size=seeds)
    mean = sum(values) / seeds
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (seeds - 1) / seeds)
    low, high = seeds_interval(values)
    assert (low + high) / 2 == pytest.approx(mean)
    freedom, reach = seeds - 1, (high - low) / 2 / error
    x = np.linspace(-reach, reach, 200_001)
    scale = math.gamma(seeds / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    density = scale * (1 + x**2 / freedom) ** (-seeds / 2)
    assert float(np.trapezoid(density, x)) == pytest.approx(0.95, abs=1e-6)


def test_bootstrap_has_the_spread_of_seeds_and_questions() -> None:
    """The crossed bootstrap's variance: that of seeds' means / S plus that of questions' means / n."""
    values = np.random.default_rng(3).normal(size=(5, 1)) + np.random.default_rng(4).normal(size=(1, 300)) / 3
    means = seed_means(values)
    expected = values.mean(1).var() / 5 + values.mean(0).var() / 300
    assert means.var() == pytest.approx(expected, rel=0.1)
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)
    assert (seed_means(values) == means).all()


# --- two groups of examples ---------------------------------------------------------------------------


def test_share_of_pairs_and_p() -> None:
    """P counts pairs, ties half; examples without a value or a grade are left out."""
    values = np.array([1.0, 2.0, 2.0, 5.0, math.nan, 4.0, 3.0])
    correct = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, math.nan])
    right, wrong = [1.0, 2.0, 4.0], [2.0, 5.0]
    compared = compare_groups(values, correct)
    assert compared.greater == pytest.approx(share_of_pairs(wrong, right))
    assert compared.p == pytest.approx(mannwhitneyu(right, wrong).pvalue)
    assert (compared.correct, compared.incorrect) == (3, 2)


def test_one_group_is_not_compared() -> None:
    compared = compare_groups([1.0, 2.0], [1.0, 1.0])
    assert math.isnan(compared.greater)
    assert math.isnan(compared.p)


def fisher_by_sum(table: np.ndarray) -> float:
    """Sum the hypergeometric probabilities of all tables that are at most as probable as this one."""
    group, positives, total = int(table[0].sum()), int(table[:, 0].sum()), int(table.sum())
    probabilities = {
        inside: math.comb(positives, inside) * math.comb(total - positives, group - inside)
        for inside in range(max(0, group + positives - total), min(group, positives) + 1)
    }
    observed = probabilities[int(table[0, 0])]
    return sum(ways for ways in probabilities.values() if ways <= observed) / math.comb(total, group)


@pytest.mark.parametrize("seed", range(10))
def test_fisher_is_a_hypergeometric_sum(seed: int) -> None:
    random = np.random.default_rng(seed)
    group = random.random(14) < 0.4
    outcome = random.random(14) < np.where(group, 0.8, 0.3)
    table = np.array([[(outcome & own).sum(), (~outcome & own).sum()] for own in (group, ~group)])
    assert fisher_p(outcome, group) == pytest.approx(fisher_by_sum(table))


# --- detection ----------------------------------------------------------------------------------------


def share_of_pairs(greater: object, smaller: object) -> float:
    """Count the pairs in which the first value is greater, ties half."""
    pairs = [float(a > b) + 0.5 * float(a == b) for a, b in product(np.ravel(greater), np.ravel(smaller))]
    return float(np.mean(pairs))


def scored(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels of both kinds, and scores with ties."""
    random = np.random.default_rng(seed)
    positive = np.append(random.random(28) < 0.4, [True, False])
    return positive, np.round(random.random(30) + 0.3 * positive, 1)


@pytest.mark.parametrize("seed", range(10))
def test_auroc_counts_pairs_ties_half(seed: int) -> None:
    positive, scores = scored(seed)
    assert auroc(positive, scores) == pytest.approx(share_of_pairs(scores[positive], scores[~positive]))
    assert auroc(~positive, -scores) == pytest.approx(auroc(positive, scores))
    assert auroc(positive, np.exp(scores)) == auroc(positive, scores)  # only ranks matter


@pytest.mark.parametrize("seed", range(10))
def test_precision_and_recall_of_each_threshold(seed: int) -> None:
    positive, scores = scored(seed)
    curve = precision_recall(positive, scores)
    points = [
        (positive[scores >= threshold].mean(), positive[scores >= threshold].sum() / positive.sum())
        for threshold in np.unique(scores)
    ]
    assert np.stack(curve, axis=1) == pytest.approx(np.array([*points, (1.0, 0.0)]))
    area = sum(
        (recall - after) * precision
        for (precision, recall), (_, after) in zip(points, [*points[1:], (1.0, 0.0)], strict=True)
    )
    assert average_precision(positive, scores) == pytest.approx(area)


def test_perfect_and_useless_scores() -> None:
    positive = np.array([False] * 6 + [True] * 3)
    assert auroc(positive, positive.astype(float)) == average_precision(positive, positive.astype(float)) == 1
    assert auroc(positive, np.zeros(9)) == 0.5
    assert average_precision(positive, np.zeros(9)) == pytest.approx(1 / 3)

"""Confidence intervals and exact tests for accuracies and their paired differences.

Grades are boolean arrays of shape (S, n): S seeds, each graded on the same n questions. Two methods that are
evaluated on the same questions are compared question by question, which is far more sensitive than comparing
their separate intervals.

References: Wilson, "Probable inference, the law of succession, and statistical inference", 1927; McNemar,
"Note on the sampling error of the difference between correlated proportions or percentages", 1947; Owen, "The
pigeonhole bootstrap", 2007; Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial
proportions based on paired data", 2012.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
BLOCK = 200  # resamples computed at a time, to bound memory


class Interval(NamedTuple):
    """95 % confidence interval.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float


def wilson_interval(correct: int, total: int) -> Interval:
    """Compute the 95 % Wilson score interval of an accuracy (Wilson 1927).

    Args:
        correct: number of correct answers.
        total: number of answers, >= 1.

    >>> low, high = wilson_interval(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    from scipy.stats import binomtest  # importing scipy.stats takes a second

    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def coverage(examples: int, questions: int) -> str:
    """Describe how many of the questions were evaluated; "" if all were.

    >>> coverage(4, 6)
    '4 of 6 questions'
    """
    return f"{examples} of {questions} questions" if examples < questions else ""


def mcnemar(fixed: int, broken: int) -> float:
    """Compute the exact two-sided p-value of McNemar's test (1947) on paired binary outcomes.

    The null hypothesis is that changes in both directions are equally likely.

    Args:
        fixed: number of answers that changed from wrong to correct.
        broken: number of answers that changed from correct to wrong.

    >>> mcnemar(2, 0)
    0.5
    """
    from scipy.stats import binomtest

    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0


def paired_p(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Compute the exact two-sided p-value of a paired difference in accuracy by sign flips of questions.

    A question's answers under several seeds are not independent, so their differences change sign together.
    With one seed this is McNemar's exact test.

    Args:
        before: (S, n) grades.
        after: (S, n) grades of the same questions.

    >>> paired_p(np.array([[False, False, True]]), np.array([[True, True, True]]))
    0.5
    """
    from scipy.stats import binom

    difference = (after.astype(int) - before.astype(int)).sum(0)
    # Distribution of the sum: for each k, that of ±k over the questions that differ by k, convolved.
    distribution, limit = np.ones(1), 0
    for size in range(1, len(before) + 1):
        count = int((abs(difference) == size).sum())
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        distribution, limit = np.convolve(distribution, steps), limit + size * count
    sums = abs(np.arange(-limit, limit + 1))
    return min(1.0, float(distribution[sums >= abs(difference.sum())].sum()))


def difference_interval(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """Compute the 95 % confidence interval of a paired difference in accuracy.

    With one seed this is the adjusted Wald interval of Bonett and Price (2012), whose width is positive even
    if no answer differs. With several seeds it is the percentile interval of :func:`seed_means`, which
    resamples the same seeds and questions for both methods.

    Args:
        before: (S, n) grades.
        after: (S, n) grades of the same questions.
    """
    if len(before) > 1:
        return _percentiles(seed_means(after.astype(float) - before))
    count = before.shape[1] + 2
    fixed, broken = ((after & ~before).sum() + 1) / count, ((before & ~after).sum() + 1) / count
    middle, margin = fixed - broken, 1.959964 * np.sqrt((fixed + broken - (fixed - broken) ** 2) / count)
    return Interval(float(max(middle - margin, -1.0)), float(min(middle + margin, 1.0)))


def accuracy_interval(grades: NDArray[np.bool_]) -> Interval:
    """Compute the 95 % confidence interval of an accuracy.

    It is the Wilson interval with one seed, and a bootstrap percentile interval with several.

    Args:
        grades: (S, n) grades.
    """
    if len(grades) > 1:
        return _percentiles(seed_means(grades.astype(float)))
    return wilson_interval(int(grades.sum()), grades.size)


def seed_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Resample the mean of values (S, n) over seeds and questions, both with replacement.

    Seeds and questions are crossed and therefore resampled independently (pigeonhole bootstrap, Owen 2007).
    With few seeds their variance is underestimated by a factor of (S − 1) / S.

    Returns:
        (RESAMPLES,) means; deterministic given the values.
    """
    generator = np.random.default_rng(0)
    seeds, questions = values.shape
    means = []
    for _ in range(RESAMPLES // BLOCK):
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=BLOCK)
        of_questions = generator.multinomial(questions, np.full(questions, 1 / questions), size=BLOCK)
        means.append(((of_seeds @ values) * of_questions).sum(1) / values.size)
    return np.concatenate(means)


def _percentiles(means: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(low), float(high))

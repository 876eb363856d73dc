"""Paired comparison of two methods: exact p-values and confidence intervals of a difference in accuracy.

Grades are boolean arrays of shape (S, n): S seeds, each graded on the same n questions. Two methods that are
evaluated on the same questions are compared question by question, which is far more sensitive than comparing
their separate intervals.

References: McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", 1947; Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial
proportions based on paired data", 2012.
"""

import numpy as np
from numpy.typing import NDArray

from promptstage.lightning_modules.functional.statistics import Interval, bootstrap_interval


def mcnemar_p(fixed: int, broken: int) -> float:
    """Compute the exact two-sided p-value of McNemar's test (1947) on paired binary outcomes.

    The null hypothesis is that changes in both directions are equally likely: fixed is binomial with
    n = fixed + broken and probability 1/2.

    Args:
        fixed: number of answers that changed from wrong to correct.
        broken: number of answers that changed from correct to wrong.

    >>> mcnemar_p(2, 0)
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
    if no answer differs:

        f − b ± z √((f + b − (f − b)²) / (n + 2)),   f = (fixed + 1) / (n + 2),   b = (broken + 1) / (n + 2)

    With several seeds it is the percentile interval of
    :func:`~promptstage.lightning_modules.functional.statistics.bootstrap_interval`, which resamples the same
    seeds and questions for both methods.

    Args:
        before: (S, n) grades.
        after: (S, n) grades of the same questions.

    >>> low, high = difference_interval(np.array([[False, False, True]]), np.array([[True, True, True]]))
    >>> round(low, 3), round(high, 3)
    (-0.301, 1.0)
    """
    if len(before) > 1:
        return bootstrap_interval(after.astype(float) - before)
    count = before.shape[1] + 2
    fixed, broken = ((after & ~before).sum() + 1) / count, ((before & ~after).sum() + 1) / count
    middle, margin = fixed - broken, 1.959964 * np.sqrt((fixed + broken - (fixed - broken) ** 2) / count)
    return Interval(float(max(middle - margin, -1.0)), float(min(middle + margin, 1.0)))

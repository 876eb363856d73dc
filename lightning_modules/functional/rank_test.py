"""Mann-Whitney test between incorrect and correct examples."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Comparison(NamedTuple):
    """Result of comparing incorrect with correct examples.

    Attributes:
        greater: probability that the value of an incorrect example exceeds that of a correct one, with ties
            counted half; 0.5 means no difference.
        p: two-sided p-value of the Mann-Whitney U test.
        correct, incorrect: numbers of examples with a value.
    """

    greater: float
    p: float
    correct: int
    incorrect: int


def compare_groups(values: ArrayLike, correct: ArrayLike) -> Comparison:
    """Compare the values of incorrect and correct examples with a Mann-Whitney U test.

    Args:
        values: (N,); NaN for an example without a value.
        correct: (N,), 1, 0, or NaN for an example of neither group.

    Returns:
        The comparison; ``greater`` and ``p`` are NaN if a group is empty.
    """
    from scipy.stats import mannwhitneyu

    numbers, marks = np.asarray(values, dtype=float), np.asarray(correct, dtype=float)
    right, wrong = (numbers[(marks == mark) & ~np.isnan(numbers)] for mark in (1, 0))
    if not len(right) or not len(wrong):
        return Comparison(float("nan"), float("nan"), len(right), len(wrong))
    test = mannwhitneyu(wrong, right)
    share = float(test.statistic) / (len(right) * len(wrong))
    return Comparison(share, float(test.pvalue), len(right), len(wrong))

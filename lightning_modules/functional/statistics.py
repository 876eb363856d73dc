"""Confidence intervals of accuracies, tests of two groups of examples, and measures of a detector.

Grades are boolean arrays of shape (S, n): S seeds, each graded on the same n questions.

References: Student, "The probable error of a mean", 1908; Wilson,
"Probable inference, the law of succession, and statistical inference", 1927; Owen, "The
pigeonhole bootstrap", 2007; Mann and Whitney, "On a test of whether one of two random variables is
stochastically larger than the other", 1947; Fisher, "The logic of inductive inference", 1935.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# scipy.stats and sklearn are imported in functions: each import takes about a second.

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


class PrecisionRecall(NamedTuple):
    """Precision-recall curve of a score.

    Attributes:
        precision: (T + 1,), share of positives among the examples with a score of at least each threshold,
            in ascending order of thresholds; the last is 1, without a threshold.
        recall: (T + 1,), share of the positives that have such a score; the last is 0.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


# --- intervals ----------------------------------------------------------------------------------------


def wilson_interval(correct: int, total: int) -> Interval:
    """Compute the 95 % Wilson score interval of an accuracy (Wilson 1927).

        (p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n),   p = correct / n,   z = 1.96

    Args:
        correct: number of correct answers.
        total: number of answers n, >= 1.

    >>> low, high = wilson_interval(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def accuracy_interval(grades: NDArray[np.bool_]) -> Interval:
    """Compute the 95 % confidence interval of an accuracy.

    It is the Wilson interval with one seed, and that of :func:`bootstrap_interval` with several.

    Args:
        grades: (S, n) grades.

    >>> accuracy_interval(np.array([[True, False]])) == wilson_interval(1, 2)
    True
    """
    if len(grades) > 1:
        return bootstrap_interval(grades.astype(float))
    return wilson_interval(int(grades.sum()), grades.size)


def seeds_interval(values: NDArray[np.float64]) -> Interval:
    """Compute the 95 % confidence interval of the mean of a value of each seed (Student 1908).

        v̄ ± t s / √S,   t the 97.5 % quantile of Student's distribution with S − 1 degrees of freedom

    For a difference of two methods, values are the differences of the same seed.

    Args:
        values: (S,), S >= 2.

    >>> low, high = seeds_interval(np.array([1.0, 2.0, 3.0]))
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    from scipy.stats import t

    reach = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(values.mean() - reach), float(values.mean() + reach))


def bootstrap_interval(values: NDArray[np.float64]) -> Interval:
    """Compute the 95 % percentile interval of the mean of values by :func:`seed_means`.

    Args:
        values: (S, n), a value of each seed and question.

    >>> bootstrap_interval(np.ones((3, 5)))
    Interval(low=1.0, high=1.0)
    """
    low, high = np.quantile(seed_means(values), (0.025, 0.975))
    return Interval(float(low), float(high))


def seed_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Resample the mean of values over seeds and questions, both with replacement.

    Seeds and questions are crossed and therefore resampled independently (pigeonhole bootstrap, Owen 2007).
    With few seeds their variance is underestimated by a factor of (S − 1) / S.

    Args:
        values: (S, n), a value of each seed and question.

    Returns:
        (RESAMPLES,) means; deterministic given the values.

    >>> seed_means(np.ones((3, 5))).shape
    (2000,)
    """
    generator = np.random.default_rng(0)
    seeds, questions = values.shape
    means = []
    for _ in range(RESAMPLES // BLOCK):
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=BLOCK)
        of_questions = generator.multinomial(questions, np.full(questions, 1 / questions), size=BLOCK)
        means.append(((of_seeds @ values) * of_questions).sum(1) / values.size)
    return np.concatenate(means)


# --- two groups of examples ---------------------------------------------------------------------------


def compare_groups(values: ArrayLike, correct: ArrayLike) -> Comparison:
    """Compare the values of incorrect and correct examples with a Mann-Whitney U test (1947).

    Args:
        values: (N,); NaN for an example without a value.
        correct: (N,), 1, 0, or NaN for an example of neither group.

    Returns:
        The comparison; ``greater`` and ``p`` are NaN if a group is empty.

    >>> compare_groups([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0])
    Comparison(greater=1.0, p=0.3333333333333333, correct=2, incorrect=2)
    """
    from scipy.stats import mannwhitneyu

    numbers, marks = np.asarray(values, dtype=float), np.asarray(correct, dtype=float)
    right, wrong = (numbers[(marks == mark) & ~np.isnan(numbers)] for mark in (1, 0))
    if not len(right) or not len(wrong):
        return Comparison(float("nan"), float("nan"), len(right), len(wrong))
    greater = auroc(np.repeat([True, False], [len(wrong), len(right)]), np.concatenate([wrong, right]))
    return Comparison(greater, float(mannwhitneyu(wrong, right).pvalue), len(right), len(wrong))


def fisher_p(outcome: ArrayLike, group: ArrayLike) -> float:
    """Compute the two-sided p-value of Fisher's exact test (1935) on a binary outcome in two groups.

    Under the null hypothesis, the number of positive outcomes in the group is hypergeometric given both
    totals; p is the probability of all numbers that are at most as probable as the observed one.

    Args:
        outcome: (N,) bool, the outcome of each example.
        group: (N,) bool, the group of each example.

    >>> round(fisher_p([True, True, True, False], [True, True, True, False]), 6)
    0.25
    """
    from scipy.stats import fisher_exact

    outcomes, groups = np.asarray(outcome, dtype=bool), np.asarray(group, dtype=bool)
    table = [[int((outcomes & own).sum()), int((~outcomes & own).sum())] for own in (groups, ~groups)]
    return float(fisher_exact(table).pvalue)


# --- detection ----------------------------------------------------------------------------------------


def auroc(positive: ArrayLike, scores: ArrayLike) -> float:
    """Compute the area under the ROC curve of a score.

        AUROC = P(s⁺ > s⁻) + P(s⁺ = s⁻) / 2 = U / (n⁺ n⁻)

    U, the Mann-Whitney statistic (1947) of n⁺ positive and n⁻ negative examples, is the sum of the positives'
    ranks less n⁺ (n⁺ + 1) / 2; ties share their mean rank.

    Args:
        positive: (N,) bool, with both values.
        scores: (N,), expected to be greater for positives.

    >>> auroc([False, False, True, True], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    from scipy.stats import rankdata

    positives = np.asarray(positive, dtype=bool)
    count = int(positives.sum())
    greater = rankdata(scores)[positives].sum() - count * (count + 1) / 2
    return float(greater) / (count * (len(positives) - count))


def precision_recall(positive: ArrayLike, scores: ArrayLike) -> PrecisionRecall:
    """Compute precision and recall of a score at each of its T different values as threshold.

    Args:
        positive: (N,) bool, with at least one True.
        scores: (N,), expected to be greater for positives.

    >>> precision_recall([False, True, True], [0.1, 0.4, 0.8]).recall.tolist()
    [1.0, 1.0, 0.5, 0.0]
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(np.asarray(positive, dtype=bool), scores)
    return PrecisionRecall(precision, recall)


def average_precision(positive: ArrayLike, scores: ArrayLike) -> float:
    """Compute the average precision of a score.

        AP = Σ_t (R_t − R_{t+1}) P_t   over the thresholds t, ascending, of :func:`precision_recall`

    Args:
        positive: (N,) bool, with at least one True.
        scores: (N,), expected to be greater for positives.

    >>> average_precision([False, True, False, True], [0.1, 0.4, 0.6, 0.8])
    0.8333333333333333
    """
    precision, recall = precision_recall(positive, scores)
    return float(-(np.diff(recall) * precision[:-1]).sum())

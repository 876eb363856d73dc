"""Confidence interval of an accuracy, exact test of a paired difference, counts of questions."""


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of an accuracy, ``total`` ≥ 1."""
    from scipy.stats import binomtest  # a second of imports

    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def coverage(examples: int, questions: int) -> str:
    """Return how many of the questions were evaluated, or "" if all were.

    >>> coverage(4, 6)
    '4 of 6 questions'
    """
    return f"{examples} of {questions} questions" if examples < questions else ""


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p of McNemar's test: as many answers changed one way as the other."""
    from scipy.stats import binomtest

    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0

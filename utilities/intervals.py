"""How sure a proportion is."""


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of an accuracy, ``total`` ≥ 1."""
    from scipy.stats import binomtest  # a second of imports

    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)

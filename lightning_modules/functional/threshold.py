"""Threshold on R for Dynamic Prompt Corruption (DPC), from examples graded before and after correction."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Point(NamedTuple):
    """Effect of a threshold: examples with a greater R are triggered.

    Attributes:
        triggered: number of examples that are triggered.
        correct: number of examples that are correct after the correction of these.
    """

    threshold: float
    triggered: int
    correct: int


def threshold_curve(ratio: ArrayLike, before: ArrayLike, after: ArrayLike) -> list[Point]:
    """Return all thresholds with different effects, ascending.

    Args:
        ratio: (n,), R of each example; NaN never triggers.
        before: (n,) bool, correct as first generated.
        after: (n,) bool, correct after correction.
    """
    ratios = np.asarray(ratio, dtype=float)
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    points = []
    for value in np.unique(np.concatenate([ratios[~np.isnan(ratios)], [0.0, 1.0]])):
        triggered = ratios > value
        correct = int(np.where(triggered, second, first).sum())
        points.append(Point(float(value), int(triggered.sum()), correct))
    return points


def best_threshold(curve: Sequence[Point]) -> Point:
    """Return the threshold with the most correct examples; ties: the fewest triggered, then the highest.

    The paper gives no rule for selecting the threshold; this rule is promptstage's.

    >>> best_threshold([Point(0.0, 9, 5), Point(0.4, 3, 6), Point(1.0, 0, 5)])
    Point(threshold=0.4, triggered=3, correct=6)
    """
    return min(curve, key=lambda point: (-point.correct, point.triggered, -point.threshold))

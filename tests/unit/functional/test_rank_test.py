"""Comparison of correct and incorrect examples by rank."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from promptstage.lightning_modules.functional.rank_test import compare_groups


def test_share_of_pairs_and_p() -> None:
    """P counts pairs, ties half; examples without a value or a grade are left out."""
    values = np.array([1.0, 2.0, 2.0, 5.0, math.nan, 4.0, 3.0])
    correct = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, math.nan])
    right, wrong = [1.0, 2.0, 4.0], [2.0, 5.0]
    found = compare_groups(values, correct)
    pairs = [float(w > r) + 0.5 * float(w == r) for w, r in product(wrong, right)]
    assert found.greater == pytest.approx(np.mean(pairs))
    assert found.p == pytest.approx(mannwhitneyu(right, wrong).pvalue)
    assert (found.correct, found.incorrect) == (3, 2)


def test_one_group_is_not_compared() -> None:
    found = compare_groups([1.0, 2.0], [1.0, 1.0])
    assert math.isnan(found.greater)
    assert math.isnan(found.p)

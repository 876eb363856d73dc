"""Predicted and true confusion of classes in in-context learning.

"Label words are anchors: an information flow perspective for understanding in-context learning", Wang et al.,
EMNLP 2023, arXiv:2305.14160, §3.3. Both are matrices (C, C) in which a smaller value means that two classes
are confused more; the diagonal is 0 in the first and NaN in the second.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptstage.lightning_modules.functional.statistics import auroc

COMPONENTS = 10

Floats = NDArray[np.float64]


def predicted_confusion(
    queries: ArrayLike, keys: ArrayLike, classes: ArrayLike, num_classes: int, components: int = COMPONENTS
) -> Floats:
    """Compute the distances of the classes' label words in the directions in which queries differ.

    The principal components v_m of the queries at q, with singular values σ_m, map a key k to the vector of
    σ_m v_mᵀk. The distance of two classes' means, divided by the greatest, is their predicted confusion: the
    model hardly distinguishes classes whose keys are near.

    Args:
        queries: (N, d), queries at the last token of N prompts.
        keys: (M, d), keys of label words.
        classes: (M,), class of each key.
        num_classes: C; a class without a key has NaN.
        components: number of principal components; at most min(N, d) are used.

    Returns:
        (C, C), 1 for the two classes that are farthest apart; NaN if all distances are 0.
    """
    states, points = np.asarray(queries, dtype=np.float64), np.asarray(keys, dtype=np.float64)
    labels = np.asarray(classes)
    _, values, directions = np.linalg.svd(states - states.mean(0), full_matrices=False)
    mapped = points @ directions[:components].T * values[:components]
    means = np.full((num_classes, mapped.shape[1]), np.nan)
    for label in np.unique(labels):
        means[label] = mapped[labels == label].mean(0)
    distances = np.linalg.norm(means[:, None] - means, axis=-1)
    greatest = np.nanmax(distances, initial=0.0)
    if greatest == 0:
        return np.full_like(distances, np.nan)
    return np.asarray(distances / greatest)


def true_confusion(probabilities: ArrayLike, gold: ArrayLike) -> Floats:
    """Compute, for each pair of classes, the AUC of P(a) / P(b) on the examples of both.

    Args:
        probabilities: (N, C), of the label words; a ratio of 0 / 0 counts as 1.
        gold: (N,), class of each example.

    Returns:
        (C, C), symmetric; NaN on the diagonal and for a class without examples.
    """
    values, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(gold)
    number = values.shape[1]
    areas = np.full((number, number), np.nan)
    with np.errstate(divide="ignore"):
        logs = np.log(values)
    for a in range(number):
        for b in range(a + 1, number):
            chosen = (labels == a) | (labels == b)
            if 0 < (labels == a).sum() < chosen.sum():
                first, second = logs[chosen, a], logs[chosen, b]
                ratio = np.subtract(first, second, out=np.zeros_like(first), where=first != second)
                areas[a, b] = areas[b, a] = auroc(labels[chosen] == a, ratio)
    return areas


def confusion_correlation(predicted: ArrayLike, true: ArrayLike) -> float:
    """Compute Spearman's ρ of two symmetric matrices above the diagonal.

    Pairs with NaN are left out; NaN with fewer than three pairs, or if one matrix is constant.

    >>> confusion_correlation([[0, 1, 2], [1, 0, 3], [2, 3, 0]], [[0, 4, 6], [4, 0, 5], [6, 5, 0]])
    0.5
    """
    from scipy.stats import rankdata

    above = np.triu_indices(len(np.asarray(true)), 1)
    first, second = (np.asarray(matrix, dtype=np.float64)[above] for matrix in (predicted, true))
    known = ~np.isnan(first) & ~np.isnan(second)
    if known.sum() < 3:
        return float("nan")
    ranks, others = (rankdata(part[known]) for part in (first, second))
    if ranks.std() == 0 or others.std() == 0:
        return float("nan")
    return float(np.corrcoef(ranks, others)[0, 1])

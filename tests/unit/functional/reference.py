"""Literal float64 NumPy versions of what lightning_modules/functional computes, slow and by definition."""

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def hsic_biased(k: Floats, other: Floats) -> float:
    """tr(HKH · HLH), Algorithm 1 of DHAM."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(h @ k @ h @ h @ other @ h))


def hsic_unbiased(k: Floats, other: Floats) -> float:
    """HSIC₁ of Song et al. 2012, eq. 5."""
    n, ones = len(k), np.ones(len(k))
    k, other = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
    trace = np.trace(k @ other)
    sums = (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return float((trace + sums - 2 / (n - 2) * (ones @ k @ other @ ones)) / (n * (n - 3)))


def cka(x: Floats, y: Floats, unbiased: bool = False) -> float:
    """Linear CKA of (n, d) and (n, e), from uncentered Gram matrices."""
    hsic = hsic_unbiased if unbiased else hsic_biased
    k, other = x @ x.T, y @ y.T
    return hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))


def cosine(x: Floats, y: Floats) -> float:
    """Mean over rows of the cosine; 0 for a row with a zero vector."""
    total = 0.0
    for a, b in zip(x, y, strict=True):
        norms = np.sqrt(sum(a * a)) * np.sqrt(sum(b * b))
        total += sum(a * b) / norms if norms > 0 else 0.0
    return total / len(x)


def all_pairs(measure: Callable[[Floats, Floats], float], features: Floats) -> Floats:
    """Every pair (L, L) of features (L, n, d) by a measure of two layers; 1 on the diagonal."""
    layers = len(features)
    found = np.eye(layers)
    for i, j in combinations(range(layers), 2):
        found[i, j] = found[j, i] = measure(features[i], features[j])
    return found


def euclidean(features: Floats) -> Floats:
    """1 − D / max D, with D the mean over rows of the distance of two layers."""
    layers = len(features)
    distance = np.zeros((layers, layers))
    for i in range(layers):
        for j in range(layers):
            rows = zip(features[i], features[j], strict=True)
            distance[i, j] = np.mean([np.sqrt(sum((a - b) ** 2)) for a, b in rows])
    return 1 - distance / distance.max()


def segmentations(layers: int, groups: int) -> Iterator[list[tuple[int, ...]]]:
    """Every contiguous segmentation of the layers, each as its segments."""
    for inner in combinations(range(1, layers), groups - 1):
        bounds = [0, *inner, layers]
        yield [tuple(range(a, b)) for a, b in pairwise(bounds)]


def cost(distance: Floats, segments: list[tuple[int, ...]]) -> float:
    """Σ over segments of Σ of its pairs' distances / its size."""
    return sum(sum(distance[i, j] for i, j in combinations(part, 2)) / len(part) for part in segments)


def silhouette(distance: Floats, labels: NDArray[np.int64]) -> float:
    """Mean of (b − a) / max(a, b) (Rousseeuw 1987); 0 for a layer that is alone in its group."""
    values = []
    for layer, label in enumerate(labels):
        own = [distance[layer, m] for m in range(len(labels)) if labels[m] == label and m != layer]
        if not own:
            values.append(0.0)
            continue
        a = np.mean(own)
        b = min(np.mean(distance[layer, labels == other]) for other in set(labels) - {label})
        values.append((b - a) / max(a, b))
    return float(np.mean(values))


def distances(generator: np.random.Generator, layers: int) -> Floats:
    """Random symmetric distances in [0, 1), 0 on the diagonal."""
    upper = np.triu(generator.random((layers, layers)), 1)
    return upper + upper.T

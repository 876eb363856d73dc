"""Groups of layers from their distances: contiguous segmentation, dendrogram cuts, silhouette.

Labels are int64 arrays (L,): the group of each layer, numbered in the order of the groups' first layers.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def segment_costs(distance: Floats) -> Floats:
    """Compute the cost (L, L) of every segment of layers i to j: sum of its pairwise distances / its size.

    1 − CKA is half the squared distance between the normalized Gram matrices of two layers, so with CKA this
    is half the sum of squares around the segment's mean, the objective of k-means. Infinite for i > j.
    """
    layers = len(distance)
    corner = np.zeros((layers + 1, layers + 1))
    corner[1:, 1:] = distance.cumsum(0).cumsum(1)
    first, last = np.arange(layers)[:, None], np.arange(layers)[None] + 1
    pairs = corner[last, last] - corner[first, last] - corner[last, first] + corner[first, first]
    size = last - first
    return np.where(size > 0, pairs / 2 / np.maximum(size, 1), np.inf)


def contiguous_cuts(distance: Floats, most: int, last_start: int | None = None) -> list[Labels]:
    """Find the optimal contiguous segmentation into 1, 2, …, ``most`` segments by dynamic programming.

    Exact; among segmentations of equal cost, the one with the earliest last boundary.

    Args:
        distance: (L, L), symmetric, 0 on the diagonal.
        most: greatest number of segments, 1 to L.
        last_start: last layer at which a segment may start; None: any layer.

    Returns:
        One segmentation for each number of segments, as far as there are layers at which they may start.
    """
    layers, costs = len(distance), segment_costs(distance)
    best = [costs[0]]  # best[g][j]: layers 0 to j in g + 1 segments
    back: list[Labels] = []
    last = layers - 1 if last_start is None else last_start
    for _ in range(1, min(most, last + 1)):
        # totals[i, j]: the last segment starts at layer i + 1 <= last and ends with j
        totals = best[-1][:last, None] + costs[1 : last + 1]
        back.append(totals.argmin(0) + 1)
        best.append(totals.min(0))
    cuts = []
    for groups in range(1, len(best) + 1):
        starts, end = [], layers - 1
        for g in range(groups - 1, 0, -1):
            start = int(back[g - 1][end])
            starts.append(start)
            end = start - 1
        labels = np.zeros(layers, dtype=np.int64)
        for start in starts:
            labels[start:] += 1
        cuts.append(labels)
    return cuts


def dendrogram(distance: Floats) -> Floats:
    """Compute average linkage in scipy's format (L − 1, 4) (DHAM Algorithm 1, line 14)."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    return linkage(squareform(distance, checks=False), "average")


def dendrogram_cuts(distance: Floats, most: int, last_start: int | None = None) -> list[Labels | None]:
    """Cut the dendrogram into 1, 2, …, ``most`` clusters.

    Returns:
        For each number of clusters the cut; None if ties leave no such cut, or the first layer of a cluster
        is after ``last_start``.
    """
    from scipy.cluster.hierarchy import fcluster

    if len(distance) == 1:
        return [np.zeros(1, dtype=np.int64)]
    tree = dendrogram(distance)
    cuts: list[Labels | None] = []
    for groups in range(1, most + 1):
        labels = fcluster(tree, groups, "maxclust")
        starts = np.unique(labels, return_index=True)[1]
        is_cut = len(starts) == groups and (last_start is None or starts.max() <= last_start)
        cuts.append(_in_order(labels) if is_cut else None)
    return cuts


def silhouette(distance: Floats, labels: Labels) -> float:
    """Compute the mean silhouette in [−1, 1] (DHAM eq. 4); 0 for one group, or only groups of one layer."""
    from sklearn.metrics import silhouette_score

    groups = len(np.unique(labels))
    if not 1 < groups < len(labels):
        return 0.0
    return float(silhouette_score(distance, labels, metric="precomputed"))


def _in_order(labels: NDArray) -> Labels:
    """Renumber groups in the order of their first layers."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)

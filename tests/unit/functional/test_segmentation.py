"""Segments by brute force, the dendrogram's clusters by scipy, silhouettes by definition."""

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform

from promptstage.lightning_modules.functional.cka import LinearCKA
from promptstage.lightning_modules.functional.segmentation import (
    contiguous_cuts,
    dendrogram,
    dendrogram_cuts,
    segment_costs,
    silhouette,
)
from tests.unit.functional import reference

Segments = list[tuple[int, ...]]


def segments_of(labels: np.ndarray) -> Segments:
    """Layers of each group, groups by number."""
    return [tuple(np.flatnonzero(labels == group).tolist()) for group in range(labels.max() + 1)]


@pytest.mark.parametrize("layers", range(1, 13))
def test_cheapest_segments_are_those_of_brute_force(layers: int) -> None:
    generator = np.random.default_rng(layers)
    for _ in range(3):
        distance = reference.distances(generator, layers)
        cuts = contiguous_cuts(distance, layers)
        assert len(cuts) == layers
        for groups, labels in enumerate(cuts, start=1):
            costs = [
                (reference.cost(distance, parts), parts) for parts in reference.segmentations(layers, groups)
            ]
            least, best = min(costs)
            found = segments_of(labels)
            assert labels.dtype == np.int64
            assert reference.cost(distance, found) == pytest.approx(least, abs=1e-12)
            assert sum(value < least + 1e-9 for value, _ in costs) == 1
            assert found == best


def test_fewer_cuts_on_demand_are_the_same() -> None:
    distance = reference.distances(np.random.default_rng(0), 9)
    every = contiguous_cuts(distance, 9)
    for most in range(1, 10):
        for found, expected in zip(contiguous_cuts(distance, most), every[:most], strict=True):
            assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("last", range(8))
def test_cheapest_segments_that_start_in_time_are_those_of_brute_force(last: int) -> None:
    distance = reference.distances(np.random.default_rng(last), 8)
    cuts = contiguous_cuts(distance, 8, last)
    assert len(cuts) == last + 1  # no other number of segments is possible
    for groups, labels in enumerate(cuts, start=1):
        in_time = [parts for parts in reference.segmentations(8, groups) if parts[-1][0] <= last]
        assert segments_of(labels) == min(in_time, key=lambda parts: reference.cost(distance, parts))
    assert all(
        (a == b).all()
        for a, b in zip(contiguous_cuts(distance, 8, 7), contiguous_cuts(distance, 8), strict=True)
    )


@pytest.mark.parametrize("layers", [2, 5, 8])
def test_of_equal_ones_the_earliest_last_boundary(layers: int) -> None:
    """All segmentations of equal layers cost nothing: each last boundary is as early as can be."""
    for groups, labels in enumerate(contiguous_cuts(np.zeros((layers, layers)), layers), start=1):
        assert labels.tolist() == [*range(groups - 1), *[groups - 1] * (layers - groups + 1)]


@pytest.mark.parametrize("seed", range(4))
def test_of_equal_ones_the_earliest_boundaries_from_the_last_on(seed: int) -> None:
    """Distances are 0 or 840, which each size up to 8 divides: costs are exact, and many are equal."""
    distance = 840 * reference.distances(np.random.default_rng(seed), 8).round()
    ties = 0
    for groups, labels in enumerate(contiguous_cuts(distance, 8), start=1):
        costs = [(reference.cost(distance, parts), parts) for parts in reference.segmentations(8, groups)]
        least = min(value for value, _ in costs)
        cheapest = [parts for value, parts in costs if value == least]
        ties += len(cheapest) > 1
        assert segments_of(labels) == min(cheapest, key=lambda parts: [part[0] for part in parts][::-1])
    assert ties >= 2


@pytest.mark.parametrize("layers", [1, 2, 7, 30])
def test_segment_costs_are_direct_sums(layers: int) -> None:
    distance = reference.distances(np.random.default_rng(layers), layers)
    costs = segment_costs(distance)
    assert costs.shape == (layers, layers)
    for i in range(layers):
        assert (costs[i, :i] == np.inf).all()
        for j in range(i, layers):
            expected = reference.cost(distance, [tuple(range(i, j + 1))])
            assert costs[i, j] == pytest.approx(expected, abs=1e-12)


def test_cost_with_cka_is_half_the_squares_around_the_mean() -> None:
    """Of the segment's centered Gram matrices of norm 1."""
    features = torch.randn(6, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    costs = segment_costs(1 - LinearCKA(features).matrix().numpy())
    grams = []
    for rows in features.numpy():
        centered = rows - rows.mean(0)
        gram = centered @ centered.T
        grams.append(gram / np.linalg.norm(gram))
    for i in range(6):
        for j in range(i, 6):
            segment = np.stack(grams[i : j + 1])
            assert costs[i, j] == pytest.approx(((segment - segment.mean(0)) ** 2).sum() / 2, abs=1e-12)


@pytest.mark.parametrize("layers", [2, 6, 13])
def test_dendrogram_cuts_that_start_in_time(layers: int) -> None:
    distance = reference.distances(np.random.default_rng(layers), layers)
    every = dendrogram_cuts(distance, layers)
    for last in range(layers):
        for cut, whole in zip(dendrogram_cuts(distance, layers, last), every, strict=True):
            assert whole is not None
            if max(part[0] for part in segments_of(whole)) <= last:
                assert cut is not None
                assert cut.tolist() == whole.tolist()
            else:
                assert cut is None


@pytest.mark.parametrize("layers", [2, 3, 6, 13, 24])
def test_dendrogram_cuts_are_scipys_clusters(layers: int) -> None:
    """Average linkage cut into every number of clusters, numbered by first layer."""
    generator = np.random.default_rng(layers)
    for _ in range(3):
        distance = reference.distances(generator, layers)
        tree = linkage(squareform(distance), "average")
        np.testing.assert_array_equal(dendrogram(distance), tree)
        for groups, labels in enumerate(dendrogram_cuts(distance, layers), start=1):
            assert labels is not None
            assert labels.dtype == np.int64
            theirs = cut_tree(tree, groups)[:, 0]
            expected = sorted(tuple(np.flatnonzero(theirs == g).tolist()) for g in range(groups))
            assert segments_of(labels) == expected


def test_ties_leave_no_cut() -> None:
    """Two pairs merged at one height: three clusters do not exist; equal layers are all or none."""
    distance = np.full((4, 4), 0.75)
    distance[:2, :2] = distance[2:, 2:] = 0.25
    np.fill_diagonal(distance, 0)
    cuts = [None if labels is None else labels.tolist() for labels in dendrogram_cuts(distance, 4)]
    assert cuts == [[0, 0, 0, 0], [0, 0, 1, 1], None, [0, 1, 2, 3]]
    equal = [labels is not None for labels in dendrogram_cuts(1 - np.eye(5), 5)]
    assert equal == [True, False, False, False, True]


def test_one_layer_has_one_cut() -> None:
    for cuts in (dendrogram_cuts(np.zeros((1, 1)), 1), contiguous_cuts(np.zeros((1, 1)), 1)):
        assert [labels.tolist() for labels in cuts if labels is not None] == [[0]]


@pytest.mark.parametrize("layers", [3, 6, 12])
def test_silhouette_by_definition(layers: int) -> None:
    """Any labels, contiguous or not, with layers alone in their group."""
    generator = np.random.default_rng(layers)
    alone = 0
    for groups in range(2, layers):
        for _ in range(4):
            distance = reference.distances(generator, layers)
            labels = generator.permutation(
                [*range(groups), *generator.integers(groups, size=layers - groups)]
            )
            alone += int((np.bincount(labels) == 1).sum())
            expected = reference.silhouette(distance, labels)
            assert silhouette(distance, labels) == pytest.approx(expected, abs=1e-12)
    assert alone > 0


def test_silhouette_of_known_groups() -> None:
    """Two pairs at 1 within and 4 between: (4 − 1) / 4 for each layer."""
    distance = np.full((4, 4), 4.0)
    distance[:2, :2] = distance[2:, 2:] = 1
    np.fill_diagonal(distance, 0)
    assert silhouette(distance, np.array([0, 0, 1, 1])) == 0.75
    assert silhouette(distance, np.array([0, 1, 0, 1])) < 0


def test_silhouette_of_one_group_or_only_single_layers_is_zero() -> None:
    distance = reference.distances(np.random.default_rng(0), 5)
    for labels in (np.zeros(5, dtype=np.int64), np.arange(5)):
        assert silhouette(distance, labels) == 0
    assert silhouette(np.zeros((1, 1)), np.zeros(1, dtype=np.int64)) == 0

"""A partition as a value: what it refuses, how it reads, and the ones made without a search."""

import pytest

from promptstage.lightning_modules.functional.partition import Partition, from_starts, single, uniform

INTERLEAVED = Partition(((0, 1), (2, 3, 4, 5, 6, 7, 8, 11), (9, 10)), "listed", "", contiguous=False)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((), "must have stages, and each stage layers"),
        (((0, 1), ()), "must have stages, and each stage layers"),
        (((0, 1), (1, 2)), "each layer from 0 on once"),
        (((0, 1), (3,)), "each layer from 0 on once"),
        (((1,), (2,)), "each layer from 0 on once"),
        (((-1, 0), (1,)), "each layer from 0 on once"),
        (((1, 2), (0,)), "order of their first layers"),
        (((0, 3), (2, 4), (1,)), "order of their first layers"),
    ],
)
def test_invalid_partition_is_rejected(stages: tuple[tuple[int, ...], ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Partition(stages, "listed", "")


def test_stage_of_each_layer() -> None:
    assert INTERLEAVED.num_layers == 12
    assert INTERLEAVED.starts == (0, 2, 9)
    assert INTERLEAVED.stage_of_layer == (0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 1)


@pytest.mark.parametrize(
    ("partition", "words"),
    [
        (INTERLEAVED, "0-1 | 2-8,11 | 9-10"),
        (Partition(((0, 2, 4), (1, 3)), "listed", ""), "0,2,4 | 1,3"),
        (single(1), "0"),
        (single(6), "0-5"),
        (uniform(2, 5), "0-1 | 2-4"),
    ],
)
def test_reads_as_runs(partition: Partition, words: str) -> None:
    assert str(partition) == words


def test_vote_and_silhouette_are_those_of_its_number_of_stages() -> None:
    stages = ((0, 1), (2, 3))
    partition = Partition(stages, "cka", "", silhouettes={2: 0.7, 3: 0.1}, votes={2: 0.75, 3: 0.25})
    assert (partition.silhouette, partition.vote) == (0.7, 0.75)
    assert Partition(stages, "cka", "", votes={2: 1.0}).vote is None
    assert Partition(stages, "cka", "", silhouettes={3: 0.1}).silhouette is None
    assert (Partition(stages, "cka", "").silhouette, Partition(stages, "cka", "").vote) == (None, None)


def test_from_starts() -> None:
    found = from_starts([0, 1, 4], 6, "listed", "as told")
    assert found.stages == ((0,), (1, 2, 3), (4, 5))
    assert (found.method, found.why, found.contiguous) == ("listed", "as told", True)


@pytest.mark.parametrize("starts", [[], [1, 2], [0, 3, 2], [0, 2, 2], [0, 4], [0, 5], [-1, 2]])
def test_starts_must_ascend_from_the_first_layer(starts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"layer|zip"):
        from_starts(starts, 4, "listed", "")


@pytest.mark.parametrize("layers", [1, 2, 5, 12, 30])
def test_uniform_stages_differ_by_at_most_one_layer(layers: int) -> None:
    for stages in range(1, layers + 1):
        found = uniform(stages, layers)
        sizes = [len(stage) for stage in found.stages]
        assert len(sizes) == stages
        assert sum(sizes) == found.num_layers == layers
        assert max(sizes) - min(sizes) <= 1
        assert found.method == "uniform"
    for stages in (0, layers + 1):
        with pytest.raises(ValueError, match=r"each stage layers|zip"):
            uniform(stages, layers)


def test_single() -> None:
    found = single(7)
    assert found.stages == (tuple(range(7)),)
    assert (found.starts, found.method) == ((0,), "single")

"""Cosine and Euclidean similarity by loops; feature rows gathered alike from any batches and processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from promptstage.lightning_modules.functional.cka import LinearCKA
from promptstage.lightning_modules.functional.similarity import (
    CosineSimilarity,
    EuclideanSimilarity,
    Similarity,
)
from promptstage.lightning_modules.layer_features import LayerFeatures
from tests.forked import start_server
from tests.unit.functional import reference

LAYERS, ROWS, WIDTH = 4, 11, 6
MEASURES = pytest.mark.parametrize("measure", [CosineSimilarity, EuclideanSimilarity])
# Which rows each of the processes gets.
ASSIGNMENTS: dict[int, list[list[list[int]]]] = {
    2: [
        [list(range(11)), []],
        [[], [3, 1, 4, 10, 5, 9, 2, 6, 8, 7, 0]],
        [[1, 3, 5, 7, 9], [10, 8, 6, 4, 2, 0]],
        [[], []],
    ],
    3: [
        [[7, 8, 9, 10], [], [0, 1, 2, 3, 4, 5, 6]],
        [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8]],
        [[], [5], [10, 9, 8, 7, 6, 4, 3, 2, 1, 0]],
    ],
}


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def expected_of(measure: type[Similarity], features: Tensor) -> np.ndarray:
    rows = features.double().numpy()
    return (
        reference.euclidean(rows)
        if measure is EuclideanSimilarity
        else reference.all_pairs(reference.cosine, rows)
    )


@MEASURES
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 1, 9), (3, 20, 4)])
def test_equals_the_definition(
    measure: type[Similarity], shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    features = (draw(*shape) + 0.5).to(dtype)
    similarity = measure(features).matrix()
    assert similarity.dtype == torch.float64
    np.testing.assert_allclose(similarity.numpy(), expected_of(measure, features), rtol=1e-12, atol=1e-13)


@MEASURES
@pytest.mark.parametrize("rows", [[2], [0, 3, 4], [6, 1], [5, 5, 0]])
def test_resample_equals_the_definition_on_its_rows(measure: type[Similarity], rows: list[int]) -> None:
    features = draw(4, 7, 3)
    made = measure(features)
    before = made.matrix()
    expected = expected_of(measure, features[:, rows])
    np.testing.assert_allclose(made.matrix(torch.tensor(rows)).numpy(), expected, rtol=1e-12, atol=1e-13)
    assert torch.equal(made.matrix(), before)


@MEASURES
def test_identical_layers_are_alike(measure: type[Similarity]) -> None:
    """All layers the same, or only the first two."""
    features = draw(3, 6, 5)
    same = measure(features[:1].repeat(3, 1, 1)).matrix()
    assert (same - 1).abs().max() < 1e-12
    features[1] = features[0]
    similarity = measure(features).matrix()
    assert similarity[0, 1] == pytest.approx(1, abs=1e-12)
    assert similarity[0, 2] < 0.9
    assert (similarity - similarity.T).abs().max() < 1e-14


@MEASURES
def test_zero_vectors(measure: type[Similarity]) -> None:
    """A zero row counts as cosine 0, and as a point like any other for the distance."""
    features = draw(4, 6, 5)
    features[0, 2] = 0
    features[1, 2] = 0
    features[3] = 0
    similarity = measure(features).matrix()
    np.testing.assert_allclose(similarity.numpy(), expected_of(measure, features), rtol=1e-12, atol=1e-13)
    assert (similarity.diagonal() == 1).all()
    if measure is CosineSimilarity:
        assert torch.equal(similarity[3, :3], torch.zeros(3, dtype=torch.float64))
    nothing = measure(torch.zeros(3, 4, 5)).matrix()
    apart = torch.eye(3) if measure is CosineSimilarity else torch.ones(3, 3)
    assert torch.equal(nothing, apart.double())


def test_cosine_ignores_length_and_euclidean_does_not() -> None:
    features = draw(3, 6, 5)
    longer = features * torch.tensor([1.0, 5.0, 0.1])[:, None, None]
    cosine, euclidean = (made(longer).matrix() for made in (CosineSimilarity, EuclideanSimilarity))
    assert (cosine - CosineSimilarity(features).matrix()).abs().max() < 1e-12
    assert (euclidean - EuclideanSimilarity(features).matrix()).abs().max() > 0.1
    assert euclidean.min() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 4, 10])
def test_any_batches_give_the_bits_of_one(size: int, dtype: torch.dtype) -> None:
    features = draw(LAYERS, ROWS, WIDTH, dtype=torch.float32).to(dtype)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    metric = LayerFeatures()
    for ids in order.split(size):
        metric.update(features[:, ids], ids)
    found, ids = metric.compute()
    assert found.dtype == dtype
    assert torch.equal(found, features)
    assert torch.equal(ids, torch.arange(ROWS))


def test_rows_come_in_the_order_of_their_ids() -> None:
    """Ids need not count from 0; rows of one example keep their order."""
    features = draw(LAYERS, 6, WIDTH)
    metric = LayerFeatures()
    metric.update(features[:, :4], torch.tensor([40, 40, 7, 40]))
    metric.update(features[:, 4:], torch.tensor([7001, 12]))
    found, ids = metric.compute()
    assert ids.tolist() == [7, 12, 40, 40, 40, 7001]
    assert ids.dtype == torch.int64
    assert torch.equal(found, features[:, [2, 5, 0, 1, 3, 4]])


def test_several_rows_an_example() -> None:
    """Rows of many tokens: as many examples at a time as one likes."""
    lengths = torch.tensor([30, 1, 25, 40, 3])
    ids = torch.arange(5).repeat_interleave(lengths)
    features = draw(LAYERS, len(ids), WIDTH)
    for batches in ([[4, 0, 3, 1, 2]], [[2], [1], [0], [4], [3]], [[3, 0], [2, 4, 1]]):
        metric = LayerFeatures()
        for batch in batches:
            rows = torch.cat([(ids == example).nonzero()[:, 0] for example in batch])
            metric.update(features[:, rows], ids[rows])
        found, order = metric.compute()
        assert torch.equal(found, features)
        assert torch.equal(order, ids)


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
@pytest.mark.parametrize("empty", [False, True])
def test_nothing_to_compare(empty: bool) -> None:
    metric = LayerFeatures()
    if empty:
        metric.update(torch.zeros(LAYERS, 0, WIDTH), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="no features to compare"):
        metric.compute()


def test_reset_forgets() -> None:
    features = draw(LAYERS, 4, WIDTH)
    metric = LayerFeatures()
    metric.update(features, torch.arange(4))
    metric.reset()
    metric.update(features[:, :2], torch.tensor([6, 5]))
    assert metric.compute()[1].tolist() == [5, 6]


def gather(rank: int, folder: Path) -> None:
    """One of three processes, all or two of which meet: a file of what it gathered for each assignment."""
    torch.set_num_threads(1)
    features = draw(LAYERS, ROWS, WIDTH)
    for world in [size for size in ASSIGNMENTS if rank < size]:
        distributed.init_process_group("gloo", f"file://{folder}/meet{world}", rank=rank, world_size=world)
        found = [gathered(features, torch.tensor(parts[rank]).long()) for parts in ASSIGNMENTS[world]]
        torch.save(found, folder / f"{world}-{rank}.pt")
        distributed.destroy_process_group()


def gathered(features: Tensor, mine: Tensor) -> tuple[Tensor, Tensor, Tensor] | str:
    """Features, ids and linear CKA after updates with this process's rows, or the error's words."""
    metric = LayerFeatures()
    for ids in mine.split(3):
        metric.update(features[:, ids], ids)
    try:
        rows, ids = metric.compute()
    except ValueError as error:
        return str(error)
    return rows, ids, LinearCKA(rows).matrix()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What real processes gathered; they start once, as that takes longest."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        start_server()
        torch.multiprocessing.start_processes(
            gather, (folder,), nprocs=max(ASSIGNMENTS), start_method="forkserver"
        )
    return folder


@pytest.mark.parametrize("world", ASSIGNMENTS)
def test_any_number_of_processes_gives_the_same_rows(world: int, folder: Path) -> None:
    """Some are without rows; where all are, all refuse."""
    features = draw(LAYERS, ROWS, WIDTH)
    expected = LinearCKA(features).matrix()
    for rank in range(world):
        for parts, found in zip(ASSIGNMENTS[world], torch.load(folder / f"{world}-{rank}.pt"), strict=True):
            if not any(parts):
                assert "no features to compare" in found
                continue
            rows, ids, similarity = found
            assert torch.equal(ids, torch.arange(ROWS))
            assert torch.equal(rows, features)
            assert (similarity - expected).abs().max() < 1e-12

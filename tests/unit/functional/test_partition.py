"""Planted stages are found; resamples vote by whole examples; a partition says what it is."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.functional.cka import LinearCKA
from promptstage.lightning_modules.functional.partition import Partition, find_partition, from_starts
from promptstage.lightning_modules.functional.similarity import CosineSimilarity, Similarity
from tests.unit.functional import reference

LAYERS, ROWS, WIDTH = 24, 32, 16
EXAMPLES = torch.arange(ROWS)
CONTIGUOUS = pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "free"])


class Given(Similarity):
    """These matrices in turn, the first of all rows, and the last again and again; keeps what was asked."""

    def __init__(self, *matrices: Tensor) -> None:
        super().__init__(torch.zeros(len(matrices[0]), 1, 1))
        self.matrices, self.asked = matrices, list[Tensor | None]()

    def matrix(self, rows: Tensor | None = None) -> Tensor:
        self.asked.append(rows)
        return self.matrices[min(len(self.asked), len(self.matrices)) - 1]


def blocks(owners: str, within: float = 0.9, between: float = 0.1) -> Tensor:
    """Similarity of layers that belong to the letters of ``owners``."""
    rows = [[within if a == b else between for b in owners] for a in owners]
    return torch.tensor(rows, dtype=torch.float64).fill_diagonal_(1)


def planted(generator: np.random.Generator, groups: int, noise: float) -> tuple[Tensor, Partition]:
    """Features (L, n, d): each layer is its stage's random basis, and noise of its own.

    Boundaries are random, with stages of at least 2 layers.
    """
    starts = [0]
    while len(starts) < groups or np.diff([*starts, LAYERS]).min() < 2:
        starts = [0, *sorted(generator.choice(range(2, LAYERS - 1), groups - 1, replace=False).tolist())]
    truth = from_starts(starts, LAYERS, "planted", "")
    bases = generator.standard_normal((groups, ROWS, WIDTH))[list(truth.stage_of_layer)]
    return torch.from_numpy(bases + noise * generator.standard_normal(bases.shape)), truth


@CONTIGUOUS
@pytest.mark.parametrize("groups", [3, 4, 5])
def test_planted_stages_and_their_number_are_found(groups: int, contiguous: bool) -> None:
    """With noise as strong as what the layers of a stage share: CKA 0.50 within, 0.34 between stages.

    Then in every second trial some pair within a stage is less alike than one across. (With twice the noise
    at most half are found, and none by free clustering.)
    """
    generator = np.random.default_rng(groups)
    found = 0
    for _ in range(100):
        features, truth = planted(generator, groups, noise=1)
        result = find_partition(
            LinearCKA(features), "cka", range(3, 6), EXAMPLES, contiguous=contiguous, resamples=0
        )
        found += result.stages == truth.stages
    assert found >= 95


@CONTIGUOUS
@pytest.mark.parametrize("rows_each", [1, 4])
@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_order_of_examples_changes_nothing(noise: float, rows_each: int, contiguous: bool) -> None:
    """Also with noise that splits the votes, and with several rows an example."""
    features, _ = planted(np.random.default_rng(0), 4, noise)
    examples = torch.arange(ROWS) // rows_each
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    one, other = (
        find_partition(LinearCKA(part), "cka", range(3, 6), ids, contiguous=contiguous, resamples=20)
        for part, ids in ((features, examples), (features[:, order], examples[order]))
    )
    assert one.similarity is not None
    assert other.similarity is not None
    assert np.abs(np.array(one.similarity) - np.array(other.similarity)).max() < 1e-12
    assert (one.stages, one.votes, one.boundary_votes) == (other.stages, other.votes, other.boundary_votes)
    assert one.examples == other.examples == ROWS // rows_each


@CONTIGUOUS
def test_votes_of_an_easy_case(contiguous: bool) -> None:
    """All resamples find the planted boundaries, and no others."""
    features, truth = planted(np.random.default_rng(1), 4, noise=0.3)
    result = find_partition(LinearCKA(features), "cka", range(3, 6), EXAMPLES, contiguous=contiguous)
    assert result.stages == truth.stages
    assert result.votes == {3: 0, 4: 1, 5: 0}
    assert result.vote == 1
    assert result.boundary_votes == {layer: float(layer in truth.starts) for layer in range(1, LAYERS)}
    assert result.resamples == 100


@CONTIGUOUS
def test_votes_of_a_hard_case(contiguous: bool) -> None:
    """Shares that sum to 1; the number of stages is that with most; the seed decides the draws."""
    features, _ = planted(np.random.default_rng(0), 4, noise=1.75)
    measure = LinearCKA(features)
    one, again, other = (
        find_partition(measure, "cka", range(3, 6), EXAMPLES, contiguous=contiguous, resamples=30, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one.votes is not None
    assert one.boundary_votes is not None
    assert sum(one.votes.values()) == pytest.approx(1)
    assert sum(share > 0 for share in one.votes.values()) > 1
    assert one.vote == max(one.votes.values()) == one.votes[len(one.stages)]
    assert list(one.boundary_votes) == list(range(1, LAYERS))
    assert all(0 <= share <= 1 for share in one.boundary_votes.values())
    assert any(0 < share < 1 for share in one.boundary_votes.values())
    assert one == again
    assert one.boundary_votes != other.boundary_votes


def test_most_resamples_decide_and_all_examples_give_the_stages() -> None:
    """3 of 5 choose three stages; which, the whole says, though it looks best with two."""
    whole = blocks("AAABCC", 0.8, 0.1) + 0.65 * (blocks("AAABBB", 1, 0) - blocks("AAABCC", 1, 0)).clamp(0)
    three, two = blocks("AABBCC"), blocks("AAAABB")
    found = find_partition(
        Given(whole, two, three, three, two, three), "x", range(2, 5), EXAMPLES, resamples=5
    )
    assert find_partition(Given(whole), "x", range(2, 5), EXAMPLES, resamples=0).stages == (
        (0, 1, 2),
        (3, 4, 5),
    )
    assert found.stages == ((0, 1, 2), (3,), (4, 5))
    assert found.votes == {2: 0.4, 3: 0.6, 4: 0}
    assert found.boundary_votes is not None
    assert found.boundary_votes[2] >= 0.6


def test_of_equally_many_votes_the_better_silhouette_on_all_examples() -> None:
    two, three = blocks("AAABBB"), blocks("AABBCC")
    for whole, groups in ((two, 2), (three, 3)):
        for order in ((two, three), (three, two)):
            found = find_partition(Given(whole, *order), "x", range(2, 4), EXAMPLES, resamples=2)
            assert found.votes == {2: 0.5, 3: 0.5}
            assert len(found.stages) == groups


@pytest.mark.parametrize("resamples", [0, 3])
def test_of_equally_good_silhouettes_the_least_number(resamples: int) -> None:
    alike = Given(torch.eye(6, dtype=torch.float64))
    for allowed in (range(2, 6), range(1, 7), range(4, 7)):
        found = find_partition(alike, "x", allowed, EXAMPLES, resamples=resamples)
        assert len(found.stages) == allowed.start


def test_number_of_stages_asked_for() -> None:
    """Four are planted; two, four and all layers are given as asked, with nothing to vote on."""
    features, truth = planted(np.random.default_rng(2), 4, noise=0.3)
    for groups in (1, 2, 4, LAYERS):
        found = find_partition(LinearCKA(features), "cka", range(groups, groups + 1), EXAMPLES, resamples=5)
        assert len(found.stages) == groups
        assert (found.stages == truth.stages) == (groups == 4)
        assert found.why == f"G = {groups} was asked for"
        assert found.vote is None


def test_only_free_stages_may_be_interleaved() -> None:
    found = find_partition(Given(blocks("AABBAA")), "x", range(2, 4), EXAMPLES, contiguous=False, resamples=2)
    assert found.stages == ((0, 1, 4, 5), (2, 3))
    assert not found.contiguous
    assert found.boundary_votes == {1: 0, 2: 1, 3: 0, 4: 1, 5: 0}
    runs = find_partition(Given(blocks("AABBAA")), "x", range(2, 4), EXAMPLES, resamples=2)
    assert runs.stages == ((0, 1), (2, 3), (4, 5))
    assert runs.contiguous


def test_free_stages_are_in_the_order_of_their_representatives() -> None:
    """Layers are dealt at random; each stage's first layer is its representative."""
    generator = np.random.default_rng(0)
    for _ in range(10):
        owners = "".join(generator.permutation(list("AAABBBCCCDD")))
        found = find_partition(
            Given(blocks(owners)), "x", range(4, 5), EXAMPLES, contiguous=False, resamples=0
        )
        assert found.starts == tuple(sorted(owners.index(letter) for letter in "ABCD"))
        order = sorted("ABCD", key=owners.index)
        assert "".join(order[stage] for stage in found.stage_of_layer) == owners


@CONTIGUOUS
@pytest.mark.parametrize("allowed", [range(3, 3), range(0, 3), range(2, 8), range(7, 8), range(5, 2)])
def test_impossible_numbers_of_stages(allowed: range, contiguous: bool) -> None:
    with pytest.raises(ValueError, match=r"number of stages must be between 1 and 6 \(layers\), got"):
        find_partition(Given(blocks("AABBCC")), "x", allowed, EXAMPLES, contiguous=contiguous)


@CONTIGUOUS
def test_stages_start_where_they_can(contiguous: bool) -> None:
    """The best of three stages starts after the last layer that a stage may start at."""
    options: dict[str, Any] = {"contiguous": contiguous, "resamples": 3}
    matrix = blocks("AABBBBCC")
    matrix[2:6, 6:] = matrix[6:, 2:6] = 0.3
    given = Given(matrix)
    free = find_partition(given, "x", range(2, 4), EXAMPLES, **options)
    assert free.starts == (0, 2, 6)
    assert find_partition(given, "x", range(2, 4), EXAMPLES, last_start=7, **options) == free
    found = find_partition(given, "x", range(2, 4), EXAMPLES, last_start=5, **options)
    assert max(found.starts) <= 5
    assert found.starts[:2] == (0, 2)
    assert found.votes is not None
    assert sum(found.votes.values()) == pytest.approx(1)
    too_many = r"between 1 and 2 \(layers that a stage can start at\), got 3 to 3$"
    with pytest.raises(ValueError, match=too_many):
        find_partition(given, "x", range(3, 4), EXAMPLES, last_start=1, **options)
    if not contiguous:
        with pytest.raises(ValueError, match=r"2 to 2 stages that start at layers 0 to 1: its cuts have 1$"):
            find_partition(given, "x", range(2, 3), EXAMPLES, last_start=1, **options)


def test_ties_of_the_dendrogram() -> None:
    """Three pairs at one height: no cut between 3 and 1; contiguous segments there are."""
    matrix = blocks("AABBCC")
    with pytest.raises(ValueError, match=r"no cut into 2 to 2 stages: its cuts have 1, 3, 6$"):
        find_partition(Given(matrix), "x", range(2, 3), EXAMPLES, contiguous=False)
    assert len(find_partition(Given(matrix), "x", range(2, 3), EXAMPLES, resamples=0).stages) == 2


@CONTIGUOUS
def test_similarity_rounded_above_one(contiguous: bool) -> None:
    """As the cosine of equal layers may be: no negative height, which scipy refuses."""
    above = blocks("AABB", within=1 + 2**-50)
    assert above.max() > 1
    found = find_partition(Given(above), "x", range(2, 3), EXAMPLES, contiguous=contiguous, resamples=0)
    assert found.stages == ((0, 1), (2, 3))


def test_resamples_without_a_cut_do_not_vote() -> None:
    """Half of them are tied at every number that is allowed."""
    good, tied = blocks("AAABBB"), blocks("ABCDEF")
    found = find_partition(
        Given(good, tied, good, tied, good), "x", range(2, 4), EXAMPLES, contiguous=False, resamples=4
    )
    assert found.votes == {2: 0.5, 3: 0}
    assert found.boundary_votes == {1: 0, 2: 0, 3: 1, 4: 0, 5: 0}
    none = find_partition(Given(good, tied), "x", range(2, 4), EXAMPLES, contiguous=False, resamples=4)
    assert none.stages == ((0, 1, 2), (3, 4, 5))
    assert none.boundary_votes is None


def test_resamples_take_whole_examples() -> None:
    """50 examples of 1 to 4 rows: a draw with replacement has 1 − (1 − 1/50)⁵⁰ = 64 % of them, once each."""
    generator = np.random.default_rng(0)
    examples = torch.from_numpy(
        generator.permutation(np.repeat(10 * np.arange(50), generator.integers(1, 5, 50)))
    )
    spy = Given(blocks("AAABBB"))
    assert find_partition(spy, "x", range(2, 4), examples, resamples=200).examples == 50
    whole, *drawn = spy.asked
    assert whole is None
    assert len(drawn) == 200
    shares = []
    for rows in drawn:
        assert rows is not None
        assert rows.dtype == torch.int64
        kept = torch.isin(examples, examples[rows])
        assert rows.tolist() == kept.nonzero()[:, 0].tolist()
        shares.append(len(examples[rows].unique()) / 50)
    assert 0.62 < np.mean(shares) < 0.65
    assert len({tuple(rows.tolist()) for rows in drawn if rows is not None}) == 200


@pytest.mark.parametrize("measure", [LinearCKA, CosineSimilarity])
def test_record_of_a_search(measure: type[Similarity]) -> None:
    """The similarity as it is, and the silhouette of the best partition into every number of stages."""
    features, truth = planted(np.random.default_rng(3), 3, noise=0.3)
    made = measure(features)
    found = find_partition(made, "name", range(2, 6), EXAMPLES, resamples=0)
    matrix = made.matrix()
    assert found.method == "name"
    assert found.why == "G = 3 has the best silhouette of 2 to 5"
    assert (found.votes, found.boundary_votes, found.vote, found.resamples) == (None, None, None, 0)
    assert torch.equal(torch.tensor(found.similarity, dtype=torch.float64), matrix)
    assert found.silhouettes is not None
    assert list(found.silhouettes) == list(range(2, LAYERS))
    expected = reference.silhouette(1 - matrix.numpy(), np.array(truth.stage_of_layer))
    assert found.silhouette == pytest.approx(expected, abs=1e-12)

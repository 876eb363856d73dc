"""Tests of the training order, and of evaluating every example exactly once."""

import random
from itertools import chain

import pytest

from promptstage.datamodules.samplers import evaluation_batches, train_batches

LENGTHS = random.Random(0).choices(range(5, 400), k=1003)


def test_train_order_is_a_function_of_seed_and_epoch() -> None:
    first = train_batches(LENGTHS, 8, seed=3, epoch=2)
    random.seed(99)
    assert train_batches(LENGTHS, 8, seed=3, epoch=2) == first
    assert train_batches(LENGTHS, 8, seed=3, epoch=1) != first
    assert train_batches(LENGTHS, 8, seed=2, epoch=2) != first
    # Seed and epoch must not be concatenated without a separator.
    assert train_batches(LENGTHS, 8, seed=1, epoch=12) != train_batches(LENGTHS, 8, seed=11, epoch=2)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [*range(21), 1003])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_ranks_shard_each_global_batch(world_size: int, n: int, accumulated: int) -> None:
    ranks = [train_batches(LENGTHS[:n], 4, 0, 0, rank, world_size, accumulated) for rank in range(world_size)]
    whole = train_batches(LENGTHS[:n], 4 * world_size * accumulated, 0, 0)
    assert {len(batches) for batches in ranks} == {accumulated * len(whole)}
    for step, batch in enumerate(whole):
        parts = [part for rank in ranks for part in rank[step * accumulated :][:accumulated]]
        assert sorted(chain(*parts)) == sorted(batch)
        assert all(len(batch) // len(parts) <= len(part) <= 4 for part in parts)
    assert sorted(chain(*whole)) == list(range(n))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [*range(21), 1003])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_ranks_shard_each_global_batch_of_tokens(world_size: int, n: int, accumulated: int) -> None:
    parts, lengths = world_size * accumulated, LENGTHS[:n]

    def batches(epoch: int, rank: int) -> list[list[int]]:
        return train_batches(lengths, 8, 0, epoch, rank, world_size, accumulated, batch_tokens=400)

    ranks = [batches(0, rank) for rank in range(world_size)]
    whole = train_batches(lengths, 8, 0, 0, batch_tokens=400 * parts)
    assert all(whole)
    assert {len(part) for part in ranks} == {accumulated * len(whole)}
    assert len(batches(1, 0)) == len(ranks[0])
    for step, batch in enumerate(whole):
        shares = [share for rank in ranks for share in rank[step * accumulated :][:accumulated]]
        assert sorted(chain(*shares)) == sorted(batch)
    assert sorted(chain(*whole)) == list(range(n))


@pytest.mark.parametrize("tokens", [400, 3000, 10**6])
def test_batches_have_about_as_many_tokens(tokens: int) -> None:
    batches = train_batches(LENGTHS, 8, 0, 0, batch_tokens=tokens)
    totals = [sum(LENGTHS[i] for i in batch) for batch in batches]
    mean = sum(totals) / len(totals)
    assert mean <= max(tokens, 2 * max(LENGTHS))
    assert all(abs(total - mean) <= max(LENGTHS) for total in totals)
    assert mean > tokens / 2 or len(totals) == 1


def test_order_of_batches_of_tokens_is_a_function_of_seed_and_epoch() -> None:
    first = train_batches(LENGTHS, 8, seed=3, epoch=2, batch_tokens=3000)
    random.seed(99)
    assert train_batches(LENGTHS, 1, seed=3, epoch=2, batch_tokens=3000) == first
    assert train_batches(LENGTHS, 8, seed=3, epoch=1, batch_tokens=3000) != first


def test_batches_have_examples_of_similar_length() -> None:
    def padding(batches: list[list[int]]) -> int:
        return sum(len(b) * max(LENGTHS[i] for i in b) - sum(LENGTHS[i] for i in b) for b in batches)

    order = list(range(len(LENGTHS)))
    unsorted = [order[i : i + 8] for i in range(0, len(order), 8)]
    assert padding(train_batches(LENGTHS, 8, 0, 0)) < 0.3 * padding(unsorted)
    assert padding(train_batches(LENGTHS, 8, 0, 0, batch_tokens=8 * 200)) < 0.3 * padding(unsorted)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [*range(21), 1003])
def test_every_example_is_evaluated_once(world_size: int, n: int) -> None:
    ranks = [evaluation_batches(LENGTHS[:n], 4, rank, world_size) for rank in range(world_size)]
    seen = [i for batches in ranks for batch in batches for i in batch]
    assert sorted(seen) == list(range(n))
    sizes = [len(batch) for batches in ranks for batch in batches]
    assert max(sizes, default=0) <= 4
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert {len(batches) for batches in ranks} == {-(-n // (4 * world_size))}
    for batches in ranks:
        longest = [max(LENGTHS[i] for i in batch) for batch in batches if batch]
        assert longest == sorted(longest, reverse=True)

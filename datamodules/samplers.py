"""Assignment of examples to ranks and batches, by pure functions without global random state."""

import random
from collections.abc import Sequence

MEGABATCH = 50  # number of global batches within which examples are sorted by length


def draw_indices(n: int, seed: str, part: slice, size: int | None) -> list[int]:
    """Draw ``size`` of ``range(n)`` from a part of its shuffled order, ascending; None: the whole part."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return sorted(order[part][:size])


def shares(n: int, parts: int) -> list[range]:
    """Split ``range(n)`` into ``parts`` contiguous ranges whose sizes differ by at most one."""
    return [range(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


def train_batches(
    lengths: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    accumulated: int = 1,
) -> list[list[int]]:
    """Compute one rank's batches of an epoch, each of examples of similar length.

    Shuffle; sort by length within every 50 global batches (fewer in a small data set, whose batches would
    otherwise be the same in every epoch); split into global batches of ``batch_size`` × ``world_size`` ×
    ``accumulated`` examples, one per optimizer step; shuffle these. Each is split into one share for every
    rank and accumulated batch, so that all ranks have the same number of batches and each example is in
    exactly one.

    Args:
        lengths: number of tokens of each example.
        batch_size: examples per rank and batch.
        accumulated: batches of a rank per optimizer step.

    Returns:
        Indices into ``lengths``; some shares of a small last global batch are empty.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    size = batch_size * world_size * accumulated
    mega_size = size * max(1, min(MEGABATCH, len(order) // (8 * size)))
    batches = []
    for start in range(0, len(order), mega_size):
        mega = sorted(order[start : start + mega_size], key=lengths.__getitem__)
        batches += [mega[i : i + size] for i in range(0, len(mega), size)]
    rng.shuffle(batches)
    return [
        [batch[i] for i in share]
        for batch in batches
        for share in shares(len(batch), accumulated * world_size)[rank::world_size]
    ]


def evaluation_batches(
    lengths: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Compute one rank's batches for evaluation: each example on exactly one rank, longest first.

    Batches are assigned to the ranks in turn, and their sizes differ by at most one. All ranks have the
    same number, since they synchronize at the end: with few examples some batches are empty.

    Args:
        lengths: number of tokens of each example.
        batch_size: maximum number of examples in a batch.

    Returns:
        Indices into ``lengths``.
    """
    # Longest first: a batch that does not fit in memory fails at once.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rounds = -(-len(order) // (batch_size * world_size))
    parts = shares(len(order), rounds * world_size)
    return [[order[i] for i in part] for part in parts[rank::world_size]]

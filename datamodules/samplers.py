"""Which examples a rank sees, and in which order. Pure functions: no state, no global random numbers."""

import random
from collections.abc import Sequence

MEGABATCH = 50  # global batches among which examples are sorted by length


def drawn(n: int, seed: str, part: slice, size: int | None) -> list[int]:
    """Draw ``size`` of ``range(n)`` from a part of its shuffled order, ascending; None: all of the part."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return sorted(order[part][:size])


def shares(n: int, parts: int) -> list[range]:
    """``range(n)`` cut into ``parts`` contiguous ranges whose sizes differ by at most one."""
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
    """One rank's batches of an epoch, examples of like length together.

    Shuffle; sort by length within every 50 global batches (fewer in a small data set, whose batches would
    else be the same in every epoch); cut into global batches of ``batch_size`` × ``world_size`` ×
    ``accumulated``, which are what an optimiser step sees; shuffle these. Each is cut into one share for
    every rank and accumulated batch, so that all ranks have the same number of batches and together see
    every example once.

    Args:
        lengths: of the examples, in tokens.
        batch_size: examples a rank and batch.
        accumulated: batches of a rank in an optimiser step.

    Returns:
        Indices into ``lengths``; of a last global batch with few examples, some shares are empty.
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
    """One rank's batches for evaluation: every example on exactly one rank, longest first.

    Batches are dealt to the ranks in turn and are of nearly the same size. All ranks have equally many,
    for they wait for each other at the end: of few examples, some batches are empty.

    Args:
        lengths: of the examples, in tokens.
        batch_size: most examples in a batch.

    Returns:
        Indices into ``lengths``.
    """
    # Longest first: what does not fit in memory fails at once.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rounds = -(-len(order) // (batch_size * world_size))
    parts = shares(len(order), rounds * world_size)
    return [[order[i] for i in part] for part in parts[rank::world_size]]

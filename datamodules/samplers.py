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
    batch_tokens: int | None = None,
) -> list[list[int]]:
    """Compute one rank's batches of an epoch, each of examples of similar length.

    Shuffle; sort by length within every 50 global batches (fewer in a small data set, whose batches would
    otherwise be the same in every epoch); split into global batches of ``batch_size`` × ``world_size`` ×
    ``accumulated`` examples, one per optimizer step; shuffle these. Each is split into one share for every
    rank and accumulated batch, so that all ranks have the same number of batches and each example is in
    exactly one.

    With ``batch_tokens``, the sorted examples are cut where the sum of their tokens passes multiples of its
    mean over all batches. The number of batches thus depends on the tokens of all examples only, and is the
    same in every epoch.

    Args:
        lengths: number of tokens of each example.
        batch_size: examples per rank and batch.
        accumulated: batches of a rank per optimizer step.
        batch_tokens: tokens per rank and batch, at least those of the longest example, instead of
            ``batch_size``: batches differ from it by less than the longest example where there are several.

    Returns:
        Indices into ``lengths``; some shares of a small last global batch are empty.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    parts = accumulated * world_size
    if batch_tokens is None:
        size = batch_size * parts
        ordered = _sorted_in_parts(order, lengths, size)
        batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
        steps = [[[batch[i] for i in share] for share in shares(len(batch), parts)] for batch in batches]
    else:
        count = token_steps(lengths, batch_tokens * parts)
        size = max(1, len(order) // max(1, count))
        # In turn ascending and descending: no batch has the longest of one part and the shortest of the next.
        ordered = _sorted_in_parts(order, lengths, size, in_turn=True)
        steps = _cut_by_tokens(ordered, lengths, count, parts)
    rng.shuffle(steps)
    return [share for step in steps for share in step[rank::world_size]]


def token_steps(lengths: Sequence[int], tokens: int) -> int:
    """Return the number of global batches of about ``tokens`` tokens, none of which is empty."""
    total = sum(lengths)
    return min(-(-total // tokens), total // max(lengths)) if total else 0


def _sorted_in_parts(order: list[int], lengths: Sequence[int], size: int, in_turn: bool = False) -> list[int]:
    """Sort examples by length within parts of 50 global batches of ``size``, or fewer (see above).

    Args:
        in_turn: sort every second part in descending order.
    """
    part = size * max(1, min(MEGABATCH, len(order) // (8 * size)))
    ordered: list[int] = []
    for number, start in enumerate(range(0, len(order), part)):
        piece = order[start : start + part]
        ordered += sorted(piece, key=lengths.__getitem__, reverse=in_turn and number % 2 == 1)
    return ordered


def _cut_by_tokens(
    ordered: list[int], lengths: Sequence[int], steps: int, parts: int
) -> list[list[list[int]]]:
    """Cut examples into ``steps`` global batches of ``parts`` batches, all with about the same tokens.

    An example is in the batch in which its middle is: no gap between middles is longer than the longest
    example, so that no global batch of at least as many tokens is empty.
    """
    batches: list[list[list[int]]] = [[[] for _ in range(parts)] for _ in range(steps)]
    total, before = sum(lengths), 0
    for i in ordered:
        place = (2 * before + lengths[i]) * steps * parts // (2 * total)
        batches[place // parts][place % parts].append(i)
        before += lengths[i]
    return batches


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

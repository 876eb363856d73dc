"""Tasks on sequences of digits, as functions of arrays, and the sequences of each split.

The tasks of "When do prompting and prefix-tuning work? A theory of capabilities and limitations", Petrov,
Torr and Bibi, ICLR 2024, arXiv:2310.19698, §5 and §6, for digits 0 to 7: ``histogram`` is its double
histogram, and no task is modular.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Digits = NDArray[np.int64]
DIGITS = 8
SHORTEST, LONGEST = 4, 10  # a count of 10 or more would have two digits


def _histogram(digits: Digits) -> Digits:
    return (digits[:, :, None] == digits[:, None, :]).sum(-1)


TASKS: dict[str, Callable[[Digits], Digits]] = {
    "ascending": lambda digits: np.sort(digits, axis=1),
    "descending": lambda digits: -np.sort(-digits, axis=1),
    "plus_one": lambda digits: digits + 1,
    "plus_two": lambda digits: digits + 2,
    "ascending_plus_one": lambda digits: np.sort(digits, axis=1) + 1,
    "histogram": _histogram,
}
"""Functions from sequences (n, length) to their answers (n, length), digits 0 to 9."""


def split_numbers(digits: Digits) -> NDArray[np.int64]:
    """Return the split of each sequence, as a function of its digits alone: 0 test, 1 validation, else train.

    Each tenth of all sequences is test or validation data, so that no seed can leak them into training.
    """
    code = digits @ (DIGITS ** np.arange(digits.shape[1]))
    mixed = (code + 1) * np.uint64(0x9E3779B97F4A7C15).astype(np.int64)  # wraps around, as a hash may
    return (mixed.astype(np.uint64) >> np.uint64(40)).astype(np.int64) % 10


def sample_sequences(split: str, size: int, length: int, seed: int, epoch: int = 0) -> Digits:
    """Draw sequences of a split, independently of each other.

    Those with more than length / 2 distinct digits are rejected half of the time, as in the paper's code:
    repeated digits are what small models learn last. Constant sequences are left out.

    Returns:
        (size, length), digits 0 to 7; a function of the arguments.
    """
    kinds = {"test": 0, "validation": 1}
    kind = kinds.get(split, 2)
    rng = np.random.default_rng([seed, epoch, kind, length])
    parts: list[Digits] = []
    missing = size
    while missing > 0:
        digits = rng.integers(DIGITS, size=(2 * missing + 64, length))
        ordered = np.sort(digits, axis=1)
        distinct = 1 + (np.diff(ordered, axis=1) > 0).sum(axis=1)
        used = (distinct <= length // 2) | (rng.random(len(digits)) < 0.5)
        used &= (distinct > 1) & (np.minimum(split_numbers(digits), 2) == kind)
        parts.append(digits[used][:missing])
        missing -= len(parts[-1])
    return np.concatenate(parts)


def solve(tasks: list[str], digits: Digits, split: str, seed: int, epoch: int = 0) -> tuple[Digits, Digits]:
    """Apply to each sequence one of the tasks, all with the same probability.

    Returns:
        Index of the task of each sequence (n,), and the answers (n, length).
    """
    rng = np.random.default_rng([seed, epoch, len(split), digits.shape[1], 1])
    chosen = rng.integers(len(tasks), size=len(digits))
    answers = np.empty_like(digits)
    for i, task in enumerate(tasks):
        answers[chosen == i] = TASKS[task](digits[chosen == i])
    return chosen, answers

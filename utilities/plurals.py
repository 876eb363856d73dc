"""Numbers and ranges with nouns."""

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, plural unless it is 1.

    >>> counted(1, "peak"), counted(0, "peak")
    ('1 peak', '0 peaks')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def ranged(numbers: Sequence[int], noun: str) -> str:
    """Return ascending numbers as a range with their noun.

    >>> ranged([3], "layer"), ranged([3, 4, 5], "layer")
    ('layer 3', 'layers 3 to 5')
    """
    return f"{noun} {numbers[0]}" if len(numbers) == 1 else f"{noun}s {numbers[0]} to {numbers[-1]}"

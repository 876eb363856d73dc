"""Numbers read from a checkpoint, which may hold anything in their place."""

import math

from torch import Tensor

LARGEST_COUNT = 2**53  # beyond it floats skip integers


def number(value: object) -> float:
    """Return a real number or a tensor with one element as a float; NaN for anything else."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def is_rate(value: object) -> bool:
    """Return whether ``value`` is finite and not negative."""
    return math.isfinite(number(value)) and number(value) >= 0


def is_count(value: object) -> bool:
    """Return whether ``value`` is an integer from 0 on that can be counted with."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def shown(value: object) -> str:
    """Return ``value`` for a message of one line: short scalars as they are, else the type."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, int) and abs(value) > LARGEST_COUNT:
        return "a larger integer"
    if value is None or isinstance(value, int | float | str):
        return repr(value)[:40]
    return f"a {type(value).__name__}"

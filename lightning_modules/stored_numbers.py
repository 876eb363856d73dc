"""Validation of numbers read from a checkpoint, which may hold anything."""

import math

from torch import Tensor

LARGEST_COUNT = 2**53  # floats represent larger integers inexactly


def to_float(value: object) -> float:
    """Convert a real number or a tensor with one element to a float; NaN for anything else."""
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
    return math.isfinite(to_float(value)) and to_float(value) >= 0


def is_count(value: object) -> bool:
    """Return whether ``value`` is an integer from 0 to ``LARGEST_COUNT``."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def short_repr(value: object) -> str:
    """Describe ``value`` for a one-line message: short scalars literally, else the type."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, int) and abs(value) > LARGEST_COUNT:
        return "an integer over 53 bits"
    if value is None or isinstance(value, int | float | str):
        return repr(value)[:40]
    return f"a {type(value).__name__}"

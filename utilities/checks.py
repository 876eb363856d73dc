"""Range checks of option values, all with one form of message: ``batch_size must be >= 1, got 0``."""

from collections.abc import Mapping

from promptstage.utilities.errors import UserError


def check_minimum(options: Mapping[str, float | None], minimum: float, reason: str = "") -> None:
    """Check that options are >= ``minimum``, and not NaN; None stands for a default to be derived.

    Args:
        options: values by the names of their options.
        minimum: the smallest allowed value.
        reason: origin of the minimum, such as ``number of stages``.

    Raises:
        UserError: naming the first option that is smaller.
    """
    for name, value in options.items():
        if value is not None and not value >= minimum:
            raise UserError(f"{name} must be >= {minimum}{reason and f' ({reason})'}, got {value}")


def check_maximum(options: Mapping[str, float | None], maximum: float, reason: str = "") -> None:
    """Check that options are <= ``maximum``, as :func:`check_minimum` does for a minimum."""
    for name, value in options.items():
        if value is not None and not value <= maximum:
            raise UserError(f"{name} must be <= {maximum}{reason and f' ({reason})'}, got {value}")


def check_between(options: Mapping[str, float | None], low: float, high: float) -> None:
    """Check that options are in [``low``, ``high``] and not NaN; None is allowed.

    Raises:
        UserError: naming the first option that is outside.
    """
    for name, value in options.items():
        if value is not None and not low <= value <= high:
            raise UserError(f"{name} must be between {low} and {high}, got {value}")


def check_positive(options: Mapping[str, float | None]) -> None:
    """Check that options are > 0; None is allowed.

    Raises:
        UserError: naming the first option that is not.
    """
    for name, value in options.items():
        if value is not None and not value > 0:
            raise UserError(f"{name} must be > 0, got {value}")

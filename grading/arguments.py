"""Checks of the arguments of ``grade``."""

from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

from promptstage.utilities.errors import UserError

_FIELDS = ("text", "label")


def check_text(value: Any, name: str) -> str:
    """Return an argument that is a string.

    Raises:
        UserError: if it is not.
    """
    if not isinstance(value, str):
        raise UserError(f"{name} must be a string, got {value!r:.60} ({type(value).__name__})")
    return value


def reference_text(reference: Any) -> str:
    """Return the text of a reference, which may also be a number.

    >>> reference_text("5 apples"), reference_text(5), reference_text(2.5)
    ('5 apples', '5', '2.5')

    Raises:
        UserError: if it is neither.
    """
    if isinstance(reference, Real) and not isinstance(reference, bool):
        return str(reference)
    if not isinstance(reference, str):
        kind = type(reference).__name__
        raise UserError(f"reference must be a string or a number, got {reference!r:.60} ({kind})")
    return reference


def check_options(options: Any) -> None:
    """Check that options have one of the forms that :func:`~promptstage.grading.grade` takes.

    Raises:
        UserError: if they have not.
    """
    if options is None or _are_labeled(options):
        return
    listed = isinstance(options, Collection) and not isinstance(options, str | bytes | Mapping)
    if listed and not any(isinstance(option, Mapping) for option in options):
        return
    if listed and all(_is_labeled(option) for option in options):
        return
    raise UserError(
        "options must be a list of texts, or have as many labels as texts: {'text': […], 'label': […]}, got "
        f"{options!r:.60}"
    )


def _are_labeled(options: Any) -> bool:
    """Return whether options are a mapping with equally many texts and labels."""
    if not _is_labeled(options):
        return False
    texts, labels = (options[name] for name in _FIELDS)
    if any(isinstance(values, str) or not isinstance(values, Collection) for values in (texts, labels)):
        return False
    return len(texts) == len(labels)


def _is_labeled(option: Any) -> bool:
    return isinstance(option, Mapping) and all(name in option for name in _FIELDS)

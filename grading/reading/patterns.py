"""Regular expressions built from lists of words."""

from collections.abc import Iterable


def phrases(listed: str) -> tuple[str, ...]:
    """Split a comma-separated list of words and phrases.

    >>> phrases("at least, over")
    ('at least', 'over')
    """
    return tuple(" ".join(phrase.split()) for phrase in listed.split(","))


def any_of(words: Iterable[str]) -> str:
    r"""Build the pattern that matches any of ``words``, which are patterns themselves.

    Spaces are escaped, so that they also count in verbose patterns.

    >>> any_of(["at least", "over"])
    '(?:at\\ least|over)'
    """
    return f"(?:{'|'.join(words)})".replace(" ", r"\ ")

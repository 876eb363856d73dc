"""Regular expressions put together from lists of words."""

from collections.abc import Iterable


def phrases(listed: str) -> tuple[str, ...]:
    """The words and phrases between the commas of ``listed``.

    >>> phrases("at least, over")
    ('at least', 'over')
    """
    return tuple(" ".join(phrase.split()) for phrase in listed.split(","))


def either(words: Iterable[str]) -> str:
    r"""The pattern of one of ``words`` (each a pattern); their blanks count in verbose patterns too.

    >>> either(["at least", "over"])
    '(?:at\\ least|over)'
    """
    return f"(?:{'|'.join(words)})".replace(" ", r"\ ")

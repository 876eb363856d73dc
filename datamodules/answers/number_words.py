"""English number words."""

import re

from promptstage.datamodules.answers.patterns import either, phrases

_ONES = phrases(
    """zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen,
    fifteen, sixteen, seventeen, eighteen, nineteen"""
)
_TENS = phrases("twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety")
_SMALL = {word: i for i, word in enumerate(_ONES)} | {word: 10 * i for i, word in enumerate(_TENS, start=2)}
_LARGE = {"thousand": 1000, "million": 10**6, "billion": 10**9}
_WORD = either([*sorted(_SMALL, key=len, reverse=True), "hundred", *_LARGE])
_NUMBER = re.compile(_WORD)
# "two hundred and twenty-five"
_PHRASE = re.compile(rf"\b{_WORD}(?:(?:[ -]|\sand\s){_WORD})*\b", re.IGNORECASE)
_NEGATIVE = re.compile(r"\b(?:minus|negative)\s+$", re.IGNORECASE)
# "two thirds", "three quarters"
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "eighth": 8,
    "tenth": 10,
}
_PART = re.compile(rf"[ -]({either(_PARTS)})s?\b", re.IGNORECASE)
_LETTERS = re.compile("[a-z]+")


def is_number_word(word: str) -> bool:
    """Return whether a lower-case word is part of a number.

    >>> is_number_word("hundred")
    True
    """
    return _NUMBER.fullmatch(word) is not None


def worded(sentence: str) -> str | None:
    """The last number written in words in ``sentence``, as digits ("one of them" aside); None without one.

    >>> worded("It takes one day, or twenty-four hours.")
    '24'
    >>> worded("two thirds")
    '2/3'
    """
    found = list(_PHRASE.finditer(sentence))
    if not found:
        return None
    last = next((match for match in reversed(found) if not _pronoun(match)), found[0])
    sign = "-" if _NEGATIVE.search(sentence[: last.start()]) else ""
    part = _PART.match(sentence, last.end())
    below = f"/{_PARTS[part[1].lower()]}" if part else ""
    return f"{sign}{_value(last[0])}{below}"


def _pronoun(match: re.Match[str]) -> bool:
    """Whether a number word is the "one" of "one of them"; "one half" has a number."""
    return match[0].lower() == "one" and not _PART.match(match.string, match.end())


def _value(phrase: str) -> int:
    """What a phrase of number words is worth: "two thousand and five"."""
    total = current = 0
    for word in _LETTERS.findall(phrase.lower()):
        if word in _SMALL:
            current += _SMALL[word]
        elif word == "hundred":
            current = (current or 1) * 100
        elif word in _LARGE:
            total += (current or 1) * _LARGE[word]
            current = 0
    return total + current

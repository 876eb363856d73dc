"""English number words."""

import re

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: i for i, word in enumerate(_ONES)} | {word: 10 * i for i, word in enumerate(_TENS, start=2)}
_LARGE = {"thousand": 1000, "million": 10**6, "billion": 10**9}
_WORD = "|".join([*sorted(_SMALL, key=len, reverse=True), "hundred", *_LARGE])
_PHRASE = re.compile(rf"(?i)\b(?:{_WORD})(?:(?:[ -]|\sand\s)(?:{_WORD}))*\b")


def worded(sentence: str) -> str | None:
    """The last number written in words in ``sentence``, as digits ("one of them" aside); None without one."""
    phrases = [match for match in _PHRASE.finditer(sentence) if match[0].lower() != "one"]
    match = phrases[-1] if phrases else _PHRASE.search(sentence)
    if match is None:
        return None
    negative = re.search(r"(?i)\b(?:minus|negative)\s+$", sentence[: match.start()])
    return f"{'-' if negative else ''}{_value(match[0])}"


def _value(phrase: str) -> int:
    total = current = 0
    for word in re.findall("[a-z]+", phrase.lower()):
        if word in _SMALL:
            current += _SMALL[word]
        elif word == "hundred":
            current = (current or 1) * 100
        elif word in _LARGE:
            total += (current or 1) * _LARGE[word]
            current = 0
    return total + current

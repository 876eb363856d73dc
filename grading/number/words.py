"""Numbers written as English words."""

import re

from promptstage.grading.reading.patterns import any_of, phrases

_ONES = phrases(
    """zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen,
    fifteen, sixteen, seventeen, eighteen, nineteen"""
)
_TENS = phrases("twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety")
_SMALL = {word: i for i, word in enumerate(_ONES)} | {word: 10 * i for i, word in enumerate(_TENS, start=2)}
_LARGE = {"thousand": 1000, "million": 10**6, "billion": 10**9}
_WORD = any_of([*sorted(_SMALL, key=len, reverse=True), "hundred", *_LARGE])
_NUMBER = re.compile(_WORD)
# "two hundred and twenty-five", but not the scale of "1.45 million"
_PHRASE = re.compile(rf"(?<!\d[ -])\b{_WORD}(?:(?:[ -]|\sand\s){_WORD})*\b", re.IGNORECASE)
_NOT = re.compile(r"(?:\bnot|n't|\bcannot)\s(?:be\s)?$", re.IGNORECASE)
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
_PART = re.compile(rf"[ -]({any_of(_PARTS)})s?\b", re.IGNORECASE)
_LETTERS = re.compile("[a-z]+")


# "a dozen", "half a dozen", but not "a dozen of", "dozens"
_DOZEN = re.compile(r"\b(?P<half>half\s)?a\sdozen\b(?!\sof\b)", re.IGNORECASE)


def is_number_word(word: str) -> bool:
    """Return whether a lower-case word is part of a number.

    >>> is_number_word("hundred")
    True
    """
    return _NUMBER.fullmatch(word) is not None


def last_number_in_words(sentence: str) -> str | None:
    """Return the last number written in words in ``sentence``, in digits; None if there is none.

    The pronoun "one" ("one of them") does not count.

    >>> last_number_in_words("It takes one day, or twenty-four hours.")
    '24'
    >>> last_number_in_words("two thirds")
    '2/3'
    """
    matches = [match for match in _PHRASE.finditer(sentence) if not _NOT.search(sentence[: match.start()])]
    dozen = _DOZEN.search(sentence)
    if dozen and not any(match.start() > dozen.start() for match in matches):
        return "6" if dozen["half"] else "12"
    if not matches:
        return None
    last = next((match for match in reversed(matches) if not _is_pronoun(match)), matches[0])
    sign = "-" if _NEGATIVE.search(sentence[: last.start()]) else ""
    part = _PART.match(sentence, last.end())
    denominator = f"/{_PARTS[part[1].lower()]}" if part else ""
    return f"{sign}{_value(last[0])}{denominator}"


def leading_number_in_words(text: str) -> tuple[str, str] | None:
    """Return the number in words at the start of ``text``, in digits, and the rest; None if there is none.

    >>> leading_number_in_words("seventy dollars"), leading_number_in_words("one half")
    (('70', ' dollars'), ('1/2', ''))
    """
    match = _PHRASE.match(text)
    if match is None:
        return None
    part = _PART.match(text, match.end())
    rest = text[part.end() if part else match.end() :]
    return f"{_value(match[0])}{f'/{_PARTS[part[1].lower()]}' if part else ''}", rest


def _is_pronoun(match: re.Match[str]) -> bool:
    """Return whether a number word is the pronoun of "one of them", as opposed to "one half"."""
    return match[0].lower() == "one" and not _PART.match(match.string, match.end())


def _value(phrase: str) -> int:
    """Return the value of a phrase of number words such as "two thousand and five"."""
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

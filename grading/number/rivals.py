"""Detection of a second number offered beside an answer: "5 or 6", "between 5 and 6", "5, or maybe 6"."""

import re
from itertools import pairwise

from promptstage.grading.number.numbers import NUMBER, find_numbers, match_value

# "5 or 6", "5 apples or maybe 6"
_OR = re.compile(
    r"""
    (?: [\s*_)$(]* [A-Za-z%°.²³]{0,20} ){0,3}?
    [\s*_),$]* \b(?:or|and/or)\b [\s*_($]*
    (?:[a-z']+\s){0,3} [\s*_($]*
    """,
    re.VERBOSE,
)
_BETWEEN = re.compile(r"\b(?:between|either|from)\s[\s*_($]*$", re.IGNORECASE)
_AND = re.compile(r"\s?[\w\s%°]{0,20}?\s?(?:and|or)\s[*_($]*")
_TO = re.compile(r"-|\s?\bto\b\s?")
_EQUALS = re.compile(r"\s*=")
_UNIT = re.compile(r"\s?(%|[A-Za-z][\w'²³]*|°)")
_NO_UNITS = (None, "or", "and", "to")
# "5. It could also be 6."
_ALTERNATIVE = re.compile(
    r"""
    \b
    (?: (?:could|might|may) (?:[ ](?:also|just[ ]as[ ]well|well|possibly))* [ ](?:be|have[ ]been)
      | alternatively,?
      | or[ ](?:maybe|perhaps|possibly|else)
    )
    \b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def competing_number(text: str, match: re.Match[str]) -> re.Match[str] | None:
    """Return the match of another number that ``text`` offers beside ``match``; None if there is none.

    >>> import re
    >>> competing_number("5 or 6", re.compile("5").search("5 or 6"))[0].strip()
    '6'
    """
    return _neighboring_number(text, match) or _later_number(text, match)


def _neighboring_number(text: str, match: re.Match[str]) -> re.Match[str] | None:
    """Return the other number of "5 or 6", "between 5 and 6" or "5-6" if its value differs."""
    for first, second in pairwise(NUMBER.finditer(text)):
        if match.start() not in (first.start(), second.start()) or not _are_alternatives(text, first, second):
            continue
        # "1.50 dollars or 150 cents" is one answer in two units.
        units = {_unit(text, first), _unit(text, second)}.difference(_NO_UNITS)
        if len(units) < 2 and match_value(first) != match_value(second):
            return second if match.start() == first.start() else first
    return None


def _are_alternatives(text: str, first: re.Match[str], second: re.Match[str]) -> bool:
    """Return whether two numbers are joined by "or" or "to", or by "and" after "between"."""
    between = (first.end(), second.start())
    if _OR.fullmatch(text, *between):
        return True
    if _BETWEEN.search(text[: first.start()]) and _AND.fullmatch(text, *between):
        return True
    return bool(_TO.fullmatch(text, *between)) and not _EQUALS.match(text, second.end())


def _unit(text: str, number: re.Match[str]) -> str | None:
    """Return ``$``, or the word or sign right after a number."""
    if "$" in number[0]:
        return "$"
    unit = _UNIT.match(text, number.end())
    return unit[1] if unit else None


def _later_number(text: str, match: re.Match[str]) -> re.Match[str] | None:
    """Return the number after "it could also be" if its value differs."""
    for announcement in _ALTERNATIVE.finditer(text, match.end()):
        alternatives = find_numbers(text[announcement.end() : announcement.end() + 40].partition("\n")[0])
        if alternatives and match_value(alternatives[0]) != match_value(match):
            return alternatives[0]
    return None

"""A second number named beside an answer: "5 or 6", "between 5 and 6", "5, or maybe 6"."""

import re
from itertools import pairwise

from promptstage.datamodules.answers.numbers import NUMBER, numbers, value

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
_ALSO = re.compile(
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


def rival(text: str, match: re.Match[str]) -> re.Match[str] | None:
    """Another number that ``text`` names as the answer beside the ``match`` of one; None without one."""
    return _neighbour(text, match) or _named_later(text, match)


def _neighbour(text: str, match: re.Match[str]) -> re.Match[str] | None:
    """The other number of "5 or 6", "between 5 and 6", "5-6", when it differs."""
    for one, two in pairwise(NUMBER.finditer(text)):
        if match.start() not in (one.start(), two.start()) or not _linked(text, one, two):
            continue
        # "1.50 dollars or 150 cents" is one answer in two units.
        units = {_unit(text, one), _unit(text, two)}.difference(_NO_UNITS)
        if len(units) < 2 and value(one) != value(two):
            return two if match.start() == one.start() else one
    return None


def _linked(text: str, one: re.Match[str], two: re.Match[str]) -> bool:
    """Whether what stands between two numbers names both: "or", "to", of "between" also "and"."""
    between = (one.end(), two.start())
    if _OR.fullmatch(text, *between):
        return True
    if _BETWEEN.search(text[: one.start()]) and _AND.fullmatch(text, *between):
        return True
    return bool(_TO.fullmatch(text, *between)) and not _EQUALS.match(text, two.end())


def _unit(text: str, number: re.Match[str]) -> str | None:
    """``$``, or the word or sign right after a number."""
    if "$" in number[0]:
        return "$"
    unit = _UNIT.match(text, number.end())
    return unit[1] if unit else None


def _named_later(text: str, match: re.Match[str]) -> re.Match[str] | None:
    """The number after "it could also be", when it differs."""
    for also in _ALSO.finditer(text, match.end()):
        named = numbers(text[also.end() : also.end() + 40].partition("\n")[0])
        if named and value(named[0]) != value(match):
            return named[0]
    return None

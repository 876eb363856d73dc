"""The answer that the last sentence of a solution states, where nothing marks it."""

import re

from promptstage.datamodules.answers.math_in_text import (
    FORMULA,
    JOINED,
    content,
    first_formulas,
    without_reason,
)
from promptstage.datamodules.answers.numbers import numbers, plain
from promptstage.datamodules.answers.stated_numbers import pick
from promptstage.datamodules.answers.text import Found

_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_STATES = re.compile(r"\s(?:is|are|equals)\s")
# "x is between 3 and 4"
_BETWEEN = re.compile(r"\bbetween\s+\$?(-?[\d.,/]*\d)\$?\s+and\s+\$?(-?[\d.,/]*\d)\$?\W*$")
# "The vertex is at (3, 4)."
_POINT = re.compile(r"(\([^()]*,[^()]*\))[.!]?$")
# "The roots are 2, 3 and 5."
_LIST = re.compile(
    r"""
    (?: \bis | \bare | = | : ) \s+
    ( -?[\d./]+ (?: (?: ,\s*(?:and\s)? | \s(?:and|or)\s ) -?[\d./]+ )+ )
    [.!]? $
    """,
    re.VERBOSE,
)
# "The slope is 3/2.", "The length is 5 cm."
_EXPRESSION = re.compile(
    r"(?: \bis | \bare | = | \bequals ) \s+ ( [^\s=]+ (?:\s[\w\\{}^/]+)? ) [.!]? $", re.VERBOSE
)
_FINAL = re.compile(r"^final(?: answer)?:\s*", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_WORDS = re.compile("[a-z]{3}")


def stated_formula(sentence: str, reference: str) -> Found | None:
    """The answer in a closing sentence: in bold, its last formula, or what stands after "is".

    Args:
        reference: tells whether the ends of a range may be the answer.
    """
    main = without_reason(sentence)
    if bold := list(_BOLD.finditer(main)):
        return _in_bold(main, bold, reference)
    if between := _BETWEEN.search(main):
        is_pair = "and" in reference or "," in reference
        return Found(f"{between[1]}, {between[2]}", "last sentence", hedged=not is_pair)
    if formulas := list(FORMULA.finditer(main)):
        return _in_formula(main, formulas)
    if "=" in main and "=" in reference and not _WORDS.search(main):
        return Found(main.strip(" .*_"), "last line")
    if len(main.split()) <= 3:
        return Found(_FINAL.sub("", main.strip(" .*_")), "last line")
    if stated := _POINT.search(main) or _LIST.search(main) or _EXPRESSION.search(main):
        return Found(stated[1].strip().rstrip("."), "last sentence")
    return _last_number(plain(main))


def _in_bold(main: str, bold: list[re.Match[str]], reference: str) -> Found | None:
    """The last words in bold, what they state, or the last two together."""
    last = bold[-1][1].strip(" .:")
    if _STATES.search(last):
        return stated_formula(last, reference)
    if len(bold) > 1 and JOINED.fullmatch(main, bold[-2].end(), bold[-1].start()):
        return Found(f"{bold[-2][1].strip(' .:')}, {last}", "bold")
    return Found(last, "bold")


def _in_formula(main: str, formulas: list[re.Match[str]]) -> Found:
    """The last formula, all of them when they are a list, or a number stated after them."""
    first, last = formulas[0], formulas[-1]
    after = _EXPRESSION.search(main)
    if after and after.start(1) > last.end() and _DIGIT.search(after[1]):
        return Found(after[1], "last sentence")
    joined = first_formulas(main[first.start() :], "last formula")
    if joined and "," in joined.text and not _WORDS.search(main, first.end(), last.start()):
        return joined
    return Found(content(last).rstrip(".,"), "last formula")


def _last_number(sentence: str) -> Found | None:
    number = pick(sentence) or next(reversed(numbers(sentence)), None)
    return Found(number[0].strip(), "last number") if number else None

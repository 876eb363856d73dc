"""Extraction of the unmarked answer in the last sentence of a solution."""

import re
from itertools import pairwise

from promptstage.grading.formula.math_in_text import (
    FORMULA,
    JOINED,
    first_formulas,
    formula_content,
    strip_reason,
)
from promptstage.grading.formula.plain import are_solutions, enclosed_value, plain_expression
from promptstage.grading.number.numbers import find_numbers, normalize_numbers
from promptstage.grading.number.stated import stated_number
from promptstage.grading.number.words import last_number_in_words
from promptstage.grading.reading.answer import Answer

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
    r"""
    (?: \bis | \bare | = | \bequals | \bbecomes | \bgives | \byields
      | \b(?:simplifies|reduces|comes|evaluates)\sto )
    \s+ ( [^\s=]+ (?: \s[\w\\{}^/]+ | \sin\sbase\s\w+ )? ) [.!]? $
    """,
    re.VERBOSE,
)
# "is 5 at x = 3", "is 2x + 1 when divided by x^2"
_CONDITION = re.compile(
    r"""
    (?P<main> .* (?:\bis|\bequals|=) \s+ [^\s=]* [\d)] (?: (?!\b[a-z]{3}) [^=,] )*? )
    \s (?:when|if|for|at) \s (?: divid(?:ed|ing) | [$]?[a-z]\s?= ) [^,]* $
    """,
    re.VERBOSE,
)
# "the probability is 3 out of 8"
_ODDS = re.compile(r"\b(?:probability|chances?|fraction)\b.*\b(\d+) out of (?:every )?(\d+)")
# "70√2 ≈ 98.99"
_APPROXIMATION = re.compile(r"(?<=\S)\s*(?:≈|\\approx(?![a-zA-Z]))\s*\$?-?[\d.,]*\d(?:\s[a-z]{2,}){0,2}\.?$")
# "(not $-2$, which is negative)", ", not $-2$"
_REJECTED = re.compile(
    r"""
    \s \( (?:and\s)? (?:not|rather\sthan|instead\sof|unlike) \s [^()]* \)
    | ,\s(?:and\s)?not\s\$ [^$]* \$ [^$\d]* $
    """,
    re.VERBOSE,
)
# "$5$, attained at $x = 2$"
_ATTAINED = re.compile(
    r"(?<=[\d$}]),\s(?:which\sis\s)?(?:attained|achieved|reached|obtained|occurring)\s(?:at|when|for|if)\b.*$"
)
# "- Area: 6"
_LABEL = re.compile(
    r"^(?:[-•]\s+)?(?:(?:so|thus|hence|therefore|finally),?\s+)?(?:[a-z]{3,}(?: answer)?:\s+)?", re.IGNORECASE
)
_VARIABLE = re.compile(r"[a-z][.,]?")
_OF = re.compile(r"\b(?:of|in|for|by|with)\s$")
# "It is 8.", "We get 8."
_SHORT_SENTENCE = re.compile(r"[\s*_]*(?:(?:it|this|that|[a-z]) is|we [a-z]+) ", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_MATHEMATICAL = re.compile(r"[\d√π∞\\(]|^[a-zA-Z]\W*$")
_WORDS = re.compile("[a-z]{3}")


def stated_formula(sentence: str, reference: str) -> Answer | None:
    """Return the answer in a concluding sentence: bold text, its last formula, or the expression after "is".

    Args:
        reference: the gold answer; it determines whether the two ends of a range may be the answer.
    """
    main = _REJECTED.sub("", strip_reason(sentence))
    attained = _ATTAINED.search(main)
    if attained and not ("(" in reference and "(" in attained[0]):
        main = main[: attained.start()]
    if "$" not in main:
        main = _CONDITION.sub(r"\g<main>", _APPROXIMATION.sub("", main))
    if odds := _ODDS.search(main):
        return Answer(f"{odds[1]}/{odds[2]}", "last sentence")
    if bold := list(_BOLD.finditer(main)):
        return _in_bold(main, bold, reference)
    if between := _BETWEEN.search(main):
        is_pair = "and" in reference or "," in reference
        return Answer(f"{between[1]}, {between[2]}", "last sentence", ambiguous=not is_pair)
    if formulas := list(FORMULA.finditer(main)):
        return _in_formula(main, formulas, reference)
    if value := enclosed_value(main, reference) or plain_expression(main, reference):
        return Answer(value, "last sentence")
    if "=" in main and "=" in reference and not _WORDS.search(main):
        return Answer(main.strip(" .*_"), "last line")
    if len(main.split()) <= 3 and not _SHORT_SENTENCE.match(main):
        return Answer(_LABEL.sub("", main.strip(" .*_")), "last line")
    stated = _POINT.search(main) or _LIST.search(main) or _EXPRESSION.search(main)
    # "2/15 is left over": words are no answer if the reference is a number.
    if stated and (_MATHEMATICAL.search(stated[1]) or not _DIGIT.search(reference)):
        return Answer(stated[1].strip().rstrip("."), "last sentence")
    if _DIGIT.search(reference) and not _MATHEMATICAL.search(main):
        words = last_number_in_words(main)
        return Answer(words, "last sentence") if words and words != "1" else None
    return _last_number(normalize_numbers(main))


def _in_bold(main: str, bold: list[re.Match[str]], reference: str) -> Answer | None:
    """Return the last bold text, the answer that it states, or the last two bold texts together."""
    last = bold[-1][1].strip(" .:")
    if _STATES.search(last):
        return stated_formula(last, reference)
    if len(bold) > 1 and JOINED.fullmatch(main, bold[-2].end(), bold[-1].start()):
        return Answer(f"{bold[-2][1].strip(' .:')}, {last}", "bold")
    return Answer(last, "bold")


def _in_formula(main: str, formulas: list[re.Match[str]], reference: str) -> Answer:
    """Return the last formula, all formulas of a list, or a number stated after them."""
    # "there are $8$ solutions in $z$"
    if not _VARIABLE.fullmatch(reference):
        while len(formulas) > 1 and _is_variable(main, formulas[-1]):
            formulas = formulas[:-1]
    first, last = formulas[0], formulas[-1]
    after = _EXPRESSION.search(main)
    if after and after.start(1) > last.end() and _DIGIT.search(after[1]):
        return Answer(after[1], "last sentence")
    joined = first_formulas(main[first.start() :], "last formula")
    gaps = [main[left.end() : right.start()] for left, right in pairwise(formulas)]
    if joined and gaps and all(map(JOINED.fullmatch, gaps)) and _form_list(joined.text, reference):
        return joined
    return Answer(formula_content(last).rstrip(".,"), "last formula")


def _is_variable(main: str, formula: re.Match[str]) -> bool:
    """Return whether a formula is a variable after a preposition: "values of $c$"."""
    is_letter = _VARIABLE.fullmatch(formula_content(formula)) is not None
    return is_letter and _OF.search(main, 0, formula.start()) is not None


def _form_list(joined: str, reference: str) -> bool:
    """Return whether joined formulas are an answer together, unlike the equations of a derivation."""
    return "=" not in joined or are_solutions(joined, reference)


def _last_number(sentence: str) -> Answer | None:
    number = stated_number(sentence) or next(reversed(find_numbers(sentence)), None)
    return Answer(number[0].strip(), "last number") if number else None

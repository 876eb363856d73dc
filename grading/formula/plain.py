"""Expressions, points and unions of intervals in sentences without math delimiters."""

import re

from promptstage.grading.formula.normalize import normalize_formula
from promptstage.grading.formula.units import UNIT
from promptstage.grading.reading.patterns import any_of, phrases

# Words of two letters, and "a" before a word, as opposed to variables such as "ab".
_WORD = any_of(
    phrases(
        r"""is, at, of, in, to, we, so, or, an, as, by, it, be, do, he, if, me, my, no, on, up, us, go, am,
        So, In, It, If, We, He, At, On, To, As, By, Or, No, I, a(?=\s+[\w(])"""
    )
)
# One character, variable, function or command of an expression. Each character is part of only one of them,
# so that matching takes linear time.
_TOKEN = rf"""(?:
    [\d.,;\s()\[\]{{}}|!%°'²³⁴:^_*/+<>=≤≥≠±×·÷√π∞∪∩∈θ-]
    | (?<![a-zA-Z\\]) (?! {_WORD} \b ) [a-zA-Z]{{1,2}} (?! [a-zA-Z] | '[a-z] )
    | \\ (?!rightarrow|Rightarrow|implies) [a-zA-Z]+
    | (?<![a-zA-Z\\]) (?: sin | cos | tan | cot | sec | csc | log | exp | sqrt ) (?![a-zA-Z])
    | (?<=[\d\s)\]}},]) (?:and|or) (?=\s)
)"""
_INTRODUCING = any_of(
    phrases(
        """is, are, be, becomes?, equals?, gives?, yields?, get, gets, have, obtain, to, as, at, in, so,
        thus, hence, therefore, then, that"""
    )
)
# "is", "simplifies to", "Solution:", or the start of the sentence.
_INTRODUCTION = rf"""(?:
    ^ | \b (?i: {_INTRODUCING} ) \b ,? | [:=] | → | => | \\rightarrow | \\Rightarrow | \\implies
)"""
_EXPRESSION = re.compile(
    rf"""
    {_INTRODUCTION} \s* (?<![a-zA-Z])
    (?P<expression> (?![\s,.;:)=]|(?:and|or)\b) {_TOKEN}+? (?: \s{UNIT}\b (?:\s{UNIT}\b)? )? )
    [.!]? $
    """,
    re.VERBOSE,
)
_OPERATOR = re.compile(r"[-+*/^=<>≤≥≠±×·÷√π∪∩∈(\[{,]|\b(?:and|or)\b")
_COMPARISON = re.compile(r"[<>≤≥≠]|\\(?:le|ge|lt|gt|ne)q?(?![a-zA-Z])")
_CASES = re.compile(r"\s(?:and|or)\s|,")
_NAMED = re.compile(r"\s*(?:and\s|or\s)?\s*([a-zA-Z](?:_\w)?)\s*=[^=]+")

_ENCLOSED = r"[(\[] [^()\[\]=]* , [^()\[\]=]* [)\]]"
# "(0, 9) ∪ (9, 36)"
_UNION = rf"{_ENCLOSED} (?: \s* (?: ∪ | U | \\cup | or | and | , ) \s* {_ENCLOSED} )*"
_GROUP = re.compile(_ENCLOSED, re.VERBOSE)
_UNITED = re.compile(r"∪|U|\\cup|\bor\b")
_ENCLOSED_VALUES = re.compile(_UNION, re.VERBOSE)
# "So (3, 5) is the midpoint …"
_SUBJECT = re.compile(
    rf"(?: (?:so|thus|therefore|hence|then) ,? \s )? (?P<value> {_UNION} ) \s (?:is|are|gives|satisfies) \b",
    re.IGNORECASE | re.VERBOSE,
)
# Before the point or interval that a sentence states: "is", "at the point", "x ∈".
_STATING = any_of(phrases("is, are, be, at, in, point, interval, pair, gives, get, equals"))
_STATES = re.compile(rf"(?: \b {_STATING} \s | [:=∈] \s? ) (?:\\left)? $", re.IGNORECASE | re.VERBOSE)
_EQUALS = re.compile(r"\s*=")
_COLLECTION = re.compile(r"[(\[][^()]*,.*[)\]]|.*\\cup.*")


def plain_expression(sentence: str, reference: str) -> str | None:
    """Return the expression, equation or list of them that ends a sentence after "is", ":" and similar words.

    None without an operator, and for equations of several names ("f(1) = 2, f(2) = 5") if the reference is
    one value.

    >>> plain_expression("So the fraction is (9a + 11)/20.", "1")
    '(9a + 11)/20'
    """
    match = _EXPRESSION.search(sentence)
    if match is None or not _OPERATOR.search(match["expression"]):
        return None
    expression = match["expression"].strip()
    if _CASES.search(expression) and not _ENCLOSED_VALUES.search(expression):
        return expression if are_solutions(expression, reference) else None
    # "sin x = 3/5"
    is_value = "=" not in reference and not _COMPARISON.search(expression)
    return expression.rpartition("=")[2].strip() if is_value else expression


def are_solutions(expression: str, reference: str) -> bool:
    """Return whether expressions joined by commas, "and" or "or" are solutions: "x = 3 or x = 5"."""
    cases = [case for case in _CASES.split(expression) if case.strip()]
    equations = [case for case in cases if "=" in case]
    names = {match[1] for match in map(_NAMED.fullmatch, equations) if match}
    if equations and not all(map(_NAMED.fullmatch, equations)):
        return False
    # "3/8, or 0.375" is one value.
    return len(names) == 1 or is_collection(reference)


def is_collection(reference: str) -> bool:
    r"""Return whether a reference is a list, set, point, interval or union.

    >>> is_collection("3, 5"), is_collection(r"(1,2]\cup[3,4)"), is_collection("1,000")
    (True, True, False)
    """
    normalized = normalize_formula(reference)
    return "," in normalized or "∨" in normalized or r"\cup" in normalized or r"\pm" in normalized


def enclosed_value(sentence: str, reference: str) -> str | None:
    """Return the point, interval or union that a sentence states, if the reference is one.

    >>> enclosed_value("The curve passes through the point (15, -29) at t = 2.", "(1,2)")
    '(15, -29)'
    """
    if not _COLLECTION.fullmatch(normalize_formula(reference)):
        return None
    if subject := _SUBJECT.match(sentence):
        return subject["value"]
    values = [
        value for value in _ENCLOSED_VALUES.finditer(sentence) if not _EQUALS.match(sentence, value.end())
    ]
    stated = [value for value in values if _STATES.search(sentence[: value.start()])]
    if not stated and len(values) != 1:
        return None
    value = (stated or values)[-1][0]
    several = len(_GROUP.findall(normalize_formula(reference))) > 1
    return value if several or _UNITED.search(value) else _GROUP.findall(value)[-1]

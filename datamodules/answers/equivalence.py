"""Whether two answers of the MATH data set mean the same.

First as text and as exact numbers; then part by part (the members of a list, the coordinates of a point,
the ends of an interval, the entries of a matrix), so that order and brackets count where they mean
something; then single expressions by math-verify, kept from what it gets wrong.
"""

import re
from functools import partial

from promptstage.datamodules.answers.exact import exact, same_in_base
from promptstage.datamodules.answers.intervals import as_intervals
from promptstage.datamodules.answers.matrices import same_matrix
from promptstage.datamodules.answers.named_answers import letter_of
from promptstage.datamodules.answers.names import without_name
from promptstage.datamodules.answers.normalize import normalise, spell
from promptstage.datamodules.answers.parts import same_parts
from promptstage.datamodules.answers.patterns import either, phrases
from promptstage.datamodules.answers.units import unit_of
from promptstage.datamodules.answers.verdicts import Same, Verdict, every, some
from promptstage.datamodules.answers.verifier import clock, verified

LONGEST = 300  # characters of an answer that is compared as mathematics and not only as text
MOST_POWERS = 12  # of an expression that is computed with

# "B) 12", \textbf{(B)}
_LETTER_GIVEN = re.compile(r"\W*(?:\\text\w*\{)?\W*([A-Z])(?:[).:}]|\s\(|$)")
_MILLION = re.compile(r"\s?million", re.IGNORECASE)
_CENTS = {"dollar": 100, "cent": 1}

_NOTHING = frozenset(
    phrases(
        r"""none, \{\}, \emptyset, emptyset, nosolution, nosolutions, norealsolution, norealsolutions,
        thereisnosolution, therearenosolutions"""
    )
)

_ELLIPSIS = r"\ldots"
_RELATION = re.compile(r"[=<>,∨]|\\(?:approx|in|ne|cup|pm)(?![a-zA-Z])")
_VARIABLE = re.compile("[a-zA-Z]")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_FUNCTION = re.compile(
    either(
        phrases(
            """sin, cos, tan, sec, csc, cot, arcsin, arccos, arctan, cis, exp, log, ln, sqrt, frac, pi, max,
            min, gcd, lcm"""
        )
    )
)
_MATHEMATICAL = re.compile(r"[\d=<>+^*/|(\\-]")
_ONE_LETTER = re.compile(r"\(?[A-Z]\)?")
_NEITHER = re.compile(r"^neither\w+nor\w+$")
_BETWEEN_WORDS = re.compile("[,∨]")

_EQUALS = re.compile(r"(?<![<>!\\])=|\\approx(?![a-zA-Z])")
_INEQUALITY = re.compile("[<>]")
# What is more than a name on the left of an equation.
_COMPUTED = re.compile(r"\d|\\(?!theta|alpha|angle|lambda)")

# What could take very long to compute.
_HUGE = re.compile(
    r"""
    \d{40}                                # a long number
    | \d{5}! | !! | \)!                   # the factorial of a large number, a factorial, brackets
    | \^ \{? -?\d{5}                      # a large exponent
    | \d\)* \^ \{? [^{}a-z]* \d\)* \^     # a power of a power
    | \) \^ \{? \d{3}                     # brackets to a large power
    """,
    re.VERBOSE,
)


def same_formula(given: str, reference: str, until: float) -> Verdict:
    """Whether ``given`` is the answer ``reference``; None when that could not be decided in time.

    Args:
        until: when to give up, on the clock of ``verifier.clock``.
    """
    given, reference = spell(given), spell(reference)
    mine, theirs = normalise(given), normalise(reference)
    if len(given) > LONGEST or len(reference) > LONGEST:
        return mine == theirs
    if mine == theirs:
        return bool(mine) or not reference
    if letter := letter_of(reference):
        named = _LETTER_GIVEN.match(given)
        return named is not None and named[1] == letter
    (mine, unit), (theirs, other) = (
        unit_of(_MILLION.sub(",000,000", formula)) for formula in (given, reference)
    )
    mine, theirs = normalise(mine), normalise(theirs)
    if unit and other and unit != other:
        return _same_money(mine, unit, theirs, other)
    return _same(mine, theirs, until)


def _same_money(mine: str, unit: str, theirs: str, other: str) -> bool:
    """Whether two amounts of different units are the same money: 50 cents and 0.5 dollars."""
    if {unit, other} != _CENTS.keys():
        return False
    x, y = exact(mine), exact(theirs)
    return x is not None and y is not None and x * _CENTS[unit] == y * _CENTS[other]


def _same(given: str, reference: str, until: float) -> Verdict:
    """Whether two normalised formulas mean the same."""
    if given == reference:
        return True
    if not given or not reference:
        return False
    if (verdict := _plainly_same(given, reference)) is not None:
        return verdict
    same = partial(_same, until=until)
    open_ended = _ELLIPSIS in reference or (_ELLIPSIS in given and "=" not in given)
    if open_ended or min(given.count(":"), reference.count(":")) > 1:
        return _same_sequence(given, reference, same)
    bare, target = without_name(given), without_name(reference)
    same_name = given[: -len(bare)] == reference[: -len(target)]
    if not same_name and _are_equations(given, reference):
        return verified(given, reference, until - clock())
    if (bare, target) != (given, reference):
        if target != reference and _names_other(given, reference):
            return False
        # k=3 answers 3, and m=3 does not answer k=3.
        alike = bare == given or target == reference or same_name
        return same(bare, target) if alike else False
    if (verdict := same_matrix(given, reference, same)) is not None:
        return verdict
    if _is_worded(given) or _is_worded(reference):
        return _words(given) == _words(reference)
    given, reference = as_intervals(given), as_intervals(reference)
    if (verdict := same_parts(given, reference, same)) is not None:
        return verdict
    if (verdict := _same_result(given, reference, same)) is not None:
        return verdict
    if given.casefold() == reference.casefold():
        return False  # A is not a, but the parser reads both alike
    if not _harmless(given) or not _harmless(reference):
        return False
    return verified(given, reference, until - clock())


def _plainly_same(given: str, reference: str) -> bool | None:
    """The comparison of two exact numbers, of numbers in a base, or with "no solution"; None for others."""
    if given in _NOTHING or reference in _NOTHING:
        return given in _NOTHING and reference in _NOTHING
    x, y = exact(given), exact(reference)
    if x is not None and y is not None:
        return x == y
    return same_in_base(given, reference)


def _same_sequence(given: str, reference: str, same: Same) -> Verdict:
    """Return whether two ratios of several numbers, or open-ended sequences, have the same members."""
    if ("=" in given) != ("=" in reference):  # a:b:c=1:2:3
        given, reference = given.rpartition("=")[2], reference.rpartition("=")[2]
    mark = ":" if ":" in reference else ","
    members, expected = (text.strip("()").split(mark) for text in (given, reference))
    if len(members) != len(expected):
        return False
    if len(members) == 1:
        return given == reference
    numbers = [(exact(left), exact(right)) for left, right in zip(members, expected, strict=True)]
    if mark == ":" and all(left and right for left, right in numbers):
        return len({left / right for left, right in numbers if left and right}) == 1
    return every(
        left == right or (_ELLIPSIS not in left + right and same(left, right))
        for left, right in zip(members, expected, strict=True)
    )


def _are_equations(given: str, reference: str) -> bool:
    """Return whether both are a single equation in the same variables."""
    variables = []
    for formula in (given, reference):
        left, equals, right = formula.partition("=")
        if not left or not equals or not right or _RELATION.search(left + right):
            return False
        if _is_worded(formula) or not _harmless(formula):
            return False
        variables.append(set(_VARIABLE.findall(_COMMAND.sub(" ", formula))))
    return bool(variables[0]) and variables[0] == variables[1]


def _names_other(given: str, reference: str) -> bool:
    """Return whether ``given`` is an equation for another quantity than ``reference``: xy=0 for x=0."""
    left, equals, right = given.partition("=")
    name = reference.partition("=")[0]
    return bool(equals and "=" not in right and left != name and _VARIABLE.search(_COMMAND.sub("", left)))


def _is_worded(formula: str) -> bool:
    """Whether an answer is made of words, which mathematics would take for products of variables."""
    if _ONE_LETTER.fullmatch(formula):
        return True
    words = [word for word in _WORD.findall(_COMMAND.sub(" ", formula)) if not _FUNCTION.fullmatch(word)]
    if not words:
        return False
    return any(len(word) >= 4 for word in words) or not _MATHEMATICAL.search(formula)


def _words(text: str) -> list[str]:
    """The words of an answer for comparison, lists of them in one order."""
    text = _NEITHER.sub("neither", text.strip("()").replace("\\", "").casefold())
    return sorted(filter(None, _BETWEEN_WORDS.split(text)))


def _same_result(given: str, reference: str, same: Same) -> Verdict:
    r"""Whether a chain of equations ends in ``reference``: 120*6=720; None when ``given`` is no such chain.

    Of \frac{2}{3}\approx0.67 both members count.
    """
    if "=" in reference or r"\approx" in reference or _INEQUALITY.search(given):
        return None
    members = _EQUALS.split(given)
    about = r"\approx" in given
    if len(members) < 2 or (len(members) == 2 and not about and not _COMPUTED.search(members[0])):
        return None
    results = members[-2:] if about else members[-1:]
    return some(same(member, reference) for member in results if member)


def _harmless(formula: str) -> bool:
    """Whether computing with ``formula`` may be quick."""
    return len(formula) <= LONGEST and formula.count("^") <= MOST_POWERS and not _HUGE.search(formula)

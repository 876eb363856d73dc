"""Equivalence of answers to competition problems, as in the MATH data set (Hendrycks et al. 2021).

Answers are compared as text and as exact numbers, then part by part (members of a list, coordinates of a
point, ends of an interval, entries of a matrix), so that order and brackets count where they carry meaning.
The remaining single expressions are compared by math-verify, except in the cases that it gets wrong.
"""

import re
from functools import partial

from promptstage.grading.formula.budget import Budget
from promptstage.grading.formula.exact import exact_value, same_in_base
from promptstage.grading.formula.intervals import as_intervals
from promptstage.grading.formula.matrices import same_matrix
from promptstage.grading.formula.named import choice_letter
from promptstage.grading.formula.names import strip_name
from promptstage.grading.formula.normalize import normalize_formula, unify_notation
from promptstage.grading.formula.parts import same_parts
from promptstage.grading.formula.units import split_unit
from promptstage.grading.formula.verdicts import Same, Verdict, all_true, any_true
from promptstage.grading.formula.verifier import verify_equality
from promptstage.grading.reading.patterns import any_of, phrases

MAX_LENGTH = 300  # characters; longer answers are compared as text only
MAX_POWERS = 12  # of an expression that is evaluated

# "B) 12", \textbf{(B)}
_LEADING_LETTER = re.compile(r"\W*(?:\\text\w*\{)?\W*([A-Z])(?:[).:}]|\s\(|$)")
_MILLION = re.compile(r"\s?million", re.IGNORECASE)
_CENTS = {"dollar": 100, "cent": 1}

_NO_SOLUTION = frozenset(
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
    any_of(
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
# A left-hand side that is a calculation and not just a name.
_CALCULATION = re.compile(r"\d|\\(?!theta|alpha|angle|lambda)")

# Expressions that could take very long to evaluate.
_EXPENSIVE = re.compile(
    r"""
    \d{40}                                # a long number
    | \d{5}! | !! | \)!                   # factorial of a large number, a factorial or brackets
    | \^ \{? -?\d{5}                      # a large exponent
    | \d\)* \^ \{? [^{}a-z]* \d\)* \^     # nested powers
    | \) \^ \{? \d{3}                     # brackets raised to a large power
    """,
    re.VERBOSE,
)


def same_formula(prediction: str, reference: str, budget: Budget) -> Verdict:
    """Return whether ``prediction`` is equivalent to ``reference``; None if the budget did not suffice.

    Args:
        budget: CPU time for the comparisons, which is reduced by what they used.

    Raises:
        UserError: if formulas cannot be compared, for example because math-verify is not installed.
    """
    prediction, reference = unify_notation(prediction), unify_notation(reference)
    answer, expected = normalize_formula(prediction), normalize_formula(reference)
    if len(prediction) > MAX_LENGTH or len(reference) > MAX_LENGTH:
        return answer == expected
    if answer == expected:
        return bool(answer) or not reference
    if letter := choice_letter(reference):
        named = _LEADING_LETTER.match(prediction)
        return named is not None and named[1] == letter
    (answer, unit), (expected, expected_unit) = (
        split_unit(_MILLION.sub(",000,000", formula)) for formula in (prediction, reference)
    )
    answer, expected = normalize_formula(answer), normalize_formula(expected)
    if unit and expected_unit and unit != expected_unit:
        return _same_money(answer, unit, expected, expected_unit)
    return _same(answer, expected, budget)


def _same_money(answer: str, unit: str, expected: str, expected_unit: str) -> bool:
    """Return whether two amounts in different units are equal sums of money: 50 cents and 0.5 dollars."""
    if {unit, expected_unit} != _CENTS.keys():
        return False
    x, y = exact_value(answer), exact_value(expected)
    return x is not None and y is not None and x * _CENTS[unit] == y * _CENTS[expected_unit]


def _same(prediction: str, reference: str, budget: Budget) -> Verdict:
    """Return whether two normalized formulas are equivalent."""
    if prediction == reference:
        return True
    if not prediction or not reference:
        return False
    if (verdict := _same_exactly(prediction, reference)) is not None:
        return verdict
    same = partial(_same, budget=budget)
    open_ended = _ELLIPSIS in reference or (_ELLIPSIS in prediction and "=" not in prediction)
    if open_ended or min(prediction.count(":"), reference.count(":")) > 1:
        return _same_sequence(prediction, reference, same)
    value, target = strip_name(prediction), strip_name(reference)
    same_name = prediction[: -len(value)] == reference[: -len(target)]
    if not same_name and _are_equations(prediction, reference):
        return verify_equality(prediction, reference, budget)
    if (value, target) != (prediction, reference):
        if target != reference and _names_another_quantity(prediction, reference):
            return False
        # k=3 matches 3, but m=3 does not match k=3.
        alike = value == prediction or target == reference or same_name
        return same(value, target) if alike else False
    if (verdict := same_matrix(prediction, reference, same)) is not None:
        return verdict
    if _is_verbal(prediction) or _is_verbal(reference):
        return _sorted_words(prediction) == _sorted_words(reference)
    prediction, reference = as_intervals(prediction), as_intervals(reference)
    if (verdict := same_parts(prediction, reference, same)) is not None:
        return verdict
    if (verdict := _same_final_result(prediction, reference, same)) is not None:
        return verdict
    if prediction.casefold() == reference.casefold():
        return False  # A is not a, but the parser reads both alike
    if not _is_cheap(prediction) or not _is_cheap(reference):
        return False
    return verify_equality(prediction, reference, budget)


def _same_exactly(prediction: str, reference: str) -> bool | None:
    """Compare exact numbers, numerals with a base and answers such as "no solution"; None for others."""
    if prediction in _NO_SOLUTION or reference in _NO_SOLUTION:
        return prediction in _NO_SOLUTION and reference in _NO_SOLUTION
    x, y = exact_value(prediction), exact_value(reference)
    if x is not None and y is not None:
        return x == y
    return same_in_base(prediction, reference)


def _same_sequence(prediction: str, reference: str, same: Same) -> Verdict:
    """Return whether two ratios of several numbers, or two open-ended sequences, have the same members."""
    if ("=" in prediction) != ("=" in reference):  # a:b:c=1:2:3
        prediction, reference = prediction.rpartition("=")[2], reference.rpartition("=")[2]
    mark = ":" if ":" in reference else ","
    members, expected = (text.strip("()").split(mark) for text in (prediction, reference))
    if len(members) != len(expected):
        return False
    if len(members) == 1:
        return prediction == reference
    numbers = [(exact_value(left), exact_value(right)) for left, right in zip(members, expected, strict=True)]
    if mark == ":" and all(left and right for left, right in numbers):
        return len({left / right for left, right in numbers if left and right}) == 1
    return all_true(
        left == right or (_ELLIPSIS not in left + right and same(left, right))
        for left, right in zip(members, expected, strict=True)
    )


def _are_equations(prediction: str, reference: str) -> bool:
    """Return whether both are a single equation in the same variables."""
    variables = []
    for formula in (prediction, reference):
        left, equals, right = formula.partition("=")
        if not left or not equals or not right or _RELATION.search(left + right):
            return False
        if _is_verbal(formula) or not _is_cheap(formula):
            return False
        variables.append(set(_VARIABLE.findall(_COMMAND.sub(" ", formula))))
    return bool(variables[0]) and variables[0] == variables[1]


def _names_another_quantity(prediction: str, reference: str) -> bool:
    """Return whether ``prediction`` is an equation for another quantity than ``reference``: xy=0 for x=0."""
    left, equals, right = prediction.partition("=")
    name = reference.partition("=")[0]
    return bool(equals and "=" not in right and left != name and _VARIABLE.search(_COMMAND.sub("", left)))


def _is_verbal(formula: str) -> bool:
    """Return whether an answer consists of words, which a parser would read as products of variables."""
    if _ONE_LETTER.fullmatch(formula):
        return True
    words = [word for word in _WORD.findall(_COMMAND.sub(" ", formula)) if not _FUNCTION.fullmatch(word)]
    if not words:
        return False
    return any(len(word) >= 4 for word in words) or not _MATHEMATICAL.search(formula)


def _sorted_words(text: str) -> list[str]:
    """Return the words of an answer, sorted, in the form in which they are compared."""
    text = _NEITHER.sub("neither", text.strip("()").replace("\\", "").casefold())
    return sorted(filter(None, _BETWEEN_WORDS.split(text)))


def _same_final_result(prediction: str, reference: str, same: Same) -> Verdict:
    r"""Return whether a chain of equations such as 120*6=720 ends in ``reference``; None without a chain.

    In \frac{2}{3}\approx0.67 both members count.
    """
    if "=" in reference or r"\approx" in reference or _INEQUALITY.search(prediction):
        return None
    members = _EQUALS.split(prediction)
    approximate = r"\approx" in prediction
    if len(members) < 2 or (len(members) == 2 and not approximate and not _CALCULATION.search(members[0])):
        return None
    results = members[-2:] if approximate else members[-1:]
    return any_true(same(member, reference) for member in results if member)


def _is_cheap(formula: str) -> bool:
    """Return whether ``formula`` can be evaluated quickly."""
    return len(formula) <= MAX_LENGTH and formula.count("^") <= MAX_POWERS and not _EXPENSIVE.search(formula)

"""Equality of two formulas by math-verify, which reads LaTeX into sympy.

For the processes of ``verifier_process`` only: a formula may take for ever, or all memory.
"""

from typing import Any

from math_verify import parse, verify
from sympy import Equality, Expr, Float, N, Rational, fraction, together

DIGITS = 50  # to which numbers are computed
# How far equal numbers may be apart, as a part of the larger: where one is written as a decimal, and else.
TOLERANCE_OF_DECIMALS, TOLERANCE = 1e-12, 1e-30
# Where expressions with variables are compared: no zeros, poles or symmetries of an ordinary formula.
PLACES = (Rational(137, 113), Rational(-211, 97), Rational(59, 83))

# Pairs after which sympy and the parser have loaded, and remember, what most others need.
EXAMPLES = (
    (r"\frac{1+\sqrt{2}}{2}", r"\frac{1}{2}+\sqrt{2}"),
    ("x^3+3x-6", "x^3+3x+6"),
    (r"\sin(2\pi x)", r"2\sin(\pi x)\cos(\pi x)"),
    ("5x-7y-4=0", "5x-7y+4=0"),
    (r"x\le 2", r"(-\infty,2]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    (r"\log_2 8-7!", "3^{100}-2^{98}i"),
)


def equal(given: str, reference: str) -> bool:
    """Whether two LaTeX formulas are equal as mathematics; not, if one of them cannot be read."""
    target, gold = (parse(f"${formula}$", parsing_timeout=None) for formula in (given, reference))
    if not gold or not target:
        return False
    if isinstance(gold[0], Equality) and isinstance(target[0], Equality):
        same = _same_equation(gold[0], target[0])
    else:
        same = _numerically(gold[0], target[0])
    return bool(verify(gold, target, timeout_seconds=None)) if same is None else same


def _values(symbols: list[Any], place: int) -> dict[Any, Any]:
    """Return values for variables at one of the places, with different ratios at each."""
    return {
        symbol: PLACES[(place + i) % len(PLACES)] * (i + 1) + Rational(i, 7 + place)
        for i, symbol in enumerate(symbols)
    }


def _same_equation(gold: Any, target: Any) -> bool | None:
    """Return whether one equation is the other times a constant: x = 3z is x - 3z = 0.

    Returns None for equations of one variable that are not, since they may still have the same solutions.
    """
    first, second = (fraction(together(equation.lhs - equation.rhs))[0] for equation in (gold, target))
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    ratios = []
    for place in range(len(PLACES)):
        values = _values(symbols, place)
        numerator, denominator = N(first.subs(values), DIGITS), N(second.subs(values), DIGITS)
        if not all(value.is_number and value.is_finite for value in (numerator, denominator)):
            return None
        if not denominator:
            return None
        ratios.append(numerator / denominator)
    tolerance = TOLERANCE_OF_DECIMALS if first.has(Float) or second.has(Float) else TOLERANCE
    if all(ratio and abs(ratio / ratios[0] - 1) < tolerance for ratio in ratios):
        return True
    return None if len(symbols) < 2 else False


def _numerically(gold: Any, target: Any) -> bool | None:
    """Whether two expressions agree to many digits, at three places if they have variables.

    math-verify rounds to six places, which makes 1/2^98 and 1/2^99 equal, and is slow to tell unequal
    expressions apart. None for anything that has no value: sets, relations, matrices.
    """
    if not isinstance(gold, Expr) or not isinstance(target, Expr):
        return None
    decimal = gold.has(Float) or target.has(Float)
    if gold.is_rational and target.is_rational and not decimal:
        return bool(gold.doit() == target.doit())
    tolerance = TOLERANCE_OF_DECIMALS if decimal else TOLERANCE
    symbols = sorted(gold.free_symbols | target.free_symbols, key=str)
    for place in range(len(PLACES) if symbols else 1):
        values = _values(symbols, place)
        one, other = N(gold.subs(values), DIGITS), N(target.subs(values), DIGITS)
        if not (one.is_number and other.is_number and one.is_finite and other.is_finite):
            return None
        if abs(one - other) > tolerance * max(abs(one), abs(other)):
            return False
    return True

"""Equality of LaTeX formulas with math-verify, which parses them into sympy expressions.

Called only by the processes of ``verifier_process``, since a comparison can take unbounded time and memory.
"""

from typing import Any

from math_verify import parse, verify
from sympy import Equality, Expr, Float, N, Rational, fraction, together

DIGITS = 50  # precision of numerical values
# Relative tolerance if either number is written as a decimal, and otherwise.
TOLERANCE_OF_DECIMALS, TOLERANCE = 1e-12, 1e-30
# Values of variables, chosen to avoid the zeros, poles and symmetries of ordinary formulas.
SAMPLE_POINTS = (Rational(137, 113), Rational(-211, 97), Rational(59, 83))

# Comparing these loads and caches what sympy and the parser need for most formulas.
WARM_UP_PAIRS = (
    (r"\frac{1+\sqrt{2}}{2}", r"\frac{1}{2}+\sqrt{2}"),
    ("x^3+3x-6", "x^3+3x+6"),
    ("(x^2+y^2)^{1/2}", r"\sqrt{x^2+y^2}"),
    (r"\sin(2\pi x)", r"2\sin(\pi x)\cos(\pi x)"),
    ("5x-7y-4=0", "5x-7y+4=0"),
    (r"x\le 2", r"(-\infty,2]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    (r"\log_2 8-7!", "3^{100}-2^{98}i"),
)


def formulas_equal(prediction: str, reference: str) -> bool:
    r"""Return whether two LaTeX formulas are mathematically equal; False if one cannot be parsed.

    >>> formulas_equal(r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), formulas_equal("x+1", "x-1")
    (True, False)
    """
    target, gold = (parse(f"${formula}$", parsing_timeout=None) for formula in (prediction, reference))
    if not gold or not target:
        return False
    if isinstance(gold[0], Equality) and isinstance(target[0], Equality):
        same = _same_equation(gold[0], target[0])
    else:
        same = _agree_numerically(gold[0], target[0])
    return bool(verify(gold, target, timeout_seconds=None)) if same is None else same


def _sample_values(symbols: list[Any], point: int) -> dict[Any, Any]:
    """Return values of the variables at a sample point; their ratios differ between points."""
    return {
        symbol: SAMPLE_POINTS[(point + i) % len(SAMPLE_POINTS)] * (i + 1) + Rational(i, 7 + point)
        for i, symbol in enumerate(symbols)
    }


def _same_equation(gold: Any, target: Any) -> bool | None:
    """Return whether one equation is a constant multiple of the other: x = 3z and x - 3z = 0.

    Equations in one variable that are not give None, since they may still have the same solutions.
    """
    first, second = (fraction(together(equation.lhs - equation.rhs))[0] for equation in (gold, target))
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    ratios = []
    for point in range(len(SAMPLE_POINTS)):
        values = _sample_values(symbols, point)
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


def _agree_numerically(gold: Any, target: Any) -> bool | None:
    """Return whether two expressions agree numerically, at every sample point if they have variables.

    math-verify rounds to six decimal places, so that 1/2^98 equals 1/2^99, and is slow on unequal
    expressions. Sets, relations and matrices have no value and give None.
    """
    if not isinstance(gold, Expr) or not isinstance(target, Expr):
        return None
    decimal = gold.has(Float) or target.has(Float)
    if gold.is_rational and target.is_rational and not decimal:
        return bool(gold.doit() == target.doit())
    tolerance = TOLERANCE_OF_DECIMALS if decimal else TOLERANCE
    symbols = sorted(gold.free_symbols | target.free_symbols, key=str)
    for point in range(len(SAMPLE_POINTS) if symbols else 1):
        values = _sample_values(symbols, point)
        gold_value, target_value = N(gold.subs(values), DIGITS), N(target.subs(values), DIGITS)
        if not (
            gold_value.is_number
            and target_value.is_number
            and gold_value.is_finite
            and target_value.is_finite
        ):
            return None
        if abs(gold_value - target_value) > tolerance * max(abs(gold_value), abs(target_value)):
            return False
    return True

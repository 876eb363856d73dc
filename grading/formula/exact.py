"""Exact values of numbers in LaTeX, and numerals in other bases."""

import re
from fractions import Fraction

from promptstage.grading.number.numbers import MAX_DIGITS

_BRACKETED = re.compile(r"\([^(),]*\)")
_DECIMAL = re.compile(
    r"""
    (?P<number> [+-]? (?: \d+(?:\.\d*)? | \.\d+ ) )
    (?: \*10\^ (?: \{(?P<power>-?\d{1,3})\} | (?P<digit>-?\d) ) )?
    """,
    re.VERBOSE,
)
_MIXED = re.compile(
    r"(?P<sign>[+-]?) (?P<whole>\d*) \\frac \{(?P<above>[+-]?\d+)\} \{(?P<below>[+-]?\d+)\}", re.VERBOSE
)
_SLASH_FRACTION = re.compile(r"([+-]?\d+)/(\d+)")
_REPEATING = re.compile(
    r"(?P<sign>[+-]?) (?P<whole>\d*) \. (?P<start>\d*) \\(?:overline|bar|dot) \{?(?P<period>\d+)\}?",
    re.VERBOSE,
)
_IN_BASE = re.compile(r"(?P<digits>\w+)_(?:\{(?P<base>\d+)\}|(?P<short>\d+))")


def exact_value(text: str) -> Fraction | None:
    r"""Return the exact value of a normalized number; None if ``text`` is not one.

    >>> exact_value(r"2\frac{1}{2}"), exact_value(r"0.\overline{3}"), exact_value("3*10^{4}")
    (Fraction(5, 2), Fraction(1, 3), Fraction(30000, 1))
    """
    if len(text) > MAX_DIGITS:
        return None
    if _BRACKETED.fullmatch(text):
        text = text[1:-1]
    if match := _DECIMAL.fullmatch(text):
        return Fraction(match["number"]) * Fraction(10) ** int(match["power"] or match["digit"] or 0)
    if match := _MIXED.fullmatch(text):
        part = _ratio(match["above"], match["below"])
        return None if part is None else _signed(match["sign"], int(match["whole"] or 0) + part)
    if match := _SLASH_FRACTION.fullmatch(text):
        return _ratio(match[1], match[2])
    if match := _REPEATING.fullmatch(text):
        return _signed(match["sign"], _repeating_decimal(match["whole"], match["start"], match["period"]))
    return None


def _ratio(above: str, below: str) -> Fraction | None:
    return Fraction(int(above), int(below)) if int(below) else None


def _signed(sign: str, number: Fraction) -> Fraction:
    return -number if sign == "-" else number


def _repeating_decimal(whole: str, start: str, period: str) -> Fraction:
    r"""Return the value of ``0.1\overline{6}``: the period over as many nines, shifted behind ``start``."""
    nines = 10 ** len(period) - 1
    return Fraction(f"{whole or 0}.{start}") + Fraction(int(period), nines * 10 ** len(start))


def same_in_base(prediction: str, reference: str) -> bool | None:
    """Return whether two numerals agree in digits and base; None if neither has a base.

    A numeral without a base is taken to have the other's.

    >>> same_in_base("2516", "2516_8"), same_in_base("2516_9", "2516_8"), same_in_base("2", "2")
    (True, False, None)
    """
    if not _IN_BASE.fullmatch(prediction) and not _IN_BASE.fullmatch(reference):
        return None
    if "=" in prediction:  # 101_2 = 5_8
        return None
    (digits, base), (expected, target) = _split_base(prediction), _split_base(reference)
    return digits == expected and (base is None or target is None or base == target)


def _split_base(text: str) -> tuple[str, int | None]:
    match = _IN_BASE.fullmatch(text)
    return (match["digits"], int(match["base"] or match["short"])) if match else (text, None)

"""Numbers with an exact value, and numbers in another base than ten."""

import re
from fractions import Fraction

from promptstage.datamodules.answers.numbers import MAX_DIGITS

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
_SLASHED = re.compile(r"([+-]?\d+)/(\d+)")
_REPEATING = re.compile(
    r"(?P<sign>[+-]?) (?P<whole>\d*) \. (?P<start>\d*) \\(?:overline|bar|dot) \{?(?P<period>\d+)\}?",
    re.VERBOSE,
)
_IN_BASE = re.compile(r"(?P<digits>\w+)_(?:\{(?P<base>\d+)\}|(?P<short>\d+))")


def exact(text: str) -> Fraction | None:
    r"""The exact value of a normalised number: 0.5, 1/2, 2\frac{1}{2}, 3*10^{4}, 0.\overline{3}; or None."""
    if len(text) > MAX_DIGITS:
        return None
    if _BRACKETED.fullmatch(text):
        text = text[1:-1]
    if match := _DECIMAL.fullmatch(text):
        return Fraction(match["number"]) * Fraction(10) ** int(match["power"] or match["digit"] or 0)
    if match := _MIXED.fullmatch(text):
        part = _ratio(match["above"], match["below"])
        return None if part is None else _signed(match["sign"], int(match["whole"] or 0) + part)
    if match := _SLASHED.fullmatch(text):
        return _ratio(match[1], match[2])
    if match := _REPEATING.fullmatch(text):
        return _signed(match["sign"], _repeated(match["whole"], match["start"], match["period"]))
    return None


def _ratio(above: str, below: str) -> Fraction | None:
    return Fraction(int(above), int(below)) if int(below) else None


def _signed(sign: str, number: Fraction) -> Fraction:
    return -number if sign == "-" else number


def _repeated(whole: str, start: str, period: str) -> Fraction:
    r"""``0.1\overline{6}``: the period over as many nines, moved behind ``start``."""
    nines = 10 ** len(period) - 1
    return Fraction(f"{whole or 0}.{start}") + Fraction(int(period), nines * 10 ** len(start))


def same_in_base(given: str, reference: str) -> bool | None:
    """Whether ``2516_8`` and ``2516_{9}`` or ``2516`` agree; None when neither names a base.

    A missing base is that of the question.
    """
    if not _IN_BASE.fullmatch(given) and not _IN_BASE.fullmatch(reference):
        return None
    (digits, base), (wanted, target) = _digits(given), _digits(reference)
    return digits == wanted and (base is None or target is None or base == target)


def _digits(text: str) -> tuple[str, int | None]:
    match = _IN_BASE.fullmatch(text)
    return (match["digits"], int(match["base"] or match["short"])) if match else (text, None)

"""Whether two formulas of the MATH data set mean the same."""

import re
import threading

from datamodules.answers import to_fraction

LONGEST = 200  # characters of a formula that is compared as mathematics and not only as text
SECONDS = 3

_REPLACED = (
    (re.compile(r"\\(?:left|right|displaystyle|[,!;:> ])|~"), ""),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\\?\$|\\?%"), ""),
    (re.compile(r"\\frac\s*([0-9])\s*([0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s*([0-9a-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\s+"), ""),
)
_EXPONENT = re.compile(r"\^\s*(?:\{\s*(-?[^{}^]{1,8})\}|(-?\w|\\[a-z]+))")


def normalise(formula: str) -> str:
    """``formula`` without what does not change its meaning: spacing, sizes, text commands, degrees."""
    for pattern, replacement in _REPLACED:
        formula = pattern.sub(replacement, formula)
    return formula.rstrip(".")


def same_formula(given: str, reference: str) -> bool:
    """Whether the formulas are equal as text, as numbers, or as mathematics (by math-verify)."""
    if len(given) > 10 * LONGEST:
        return given == reference
    a, b = normalise(given), normalise(reference)
    if not a or a == b:
        return a == b
    x, y = to_fraction(a), to_fraction(b)
    if x is not None and y is not None:
        return x == y
    return _harmless(given) and _harmless(reference) and _verified(given, reference)


def _harmless(formula: str) -> bool:
    """Whether computing with ``formula`` is surely quick: no towers of powers, factorials or huge numbers."""
    powers = _EXPONENT.findall(formula)
    return (
        len(formula) <= LONGEST
        and "!" not in formula
        and "**" not in formula
        and not re.search(r"\d{16}|\\(?:sum|prod|int|binom)", formula)
        and len(powers) == formula.count("^")
        and not any(re.search(r"\d{3}", "".join(power)) for power in powers)
        # A power of a power can be nested.
        and len(re.findall(r"[)}\]]\s*\^", formula)) <= 3
    )


def _verified(given: str, reference: str) -> bool:
    from math_verify import parse, verify

    # Its own time limit is an alarm signal, which only the main thread can have.
    limit = SECONDS if threading.current_thread() is threading.main_thread() else None
    gold, target = (parse(f"${formula}$", parsing_timeout=limit) for formula in (reference, given))
    return bool(gold and target and verify(gold, target, timeout_seconds=limit))

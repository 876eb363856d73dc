"""Quantities in convertible units, such as 2.5 hours and 150 minutes."""

import re
from fractions import Fraction

from promptstage.grading.reading.patterns import any_of, phrases

BELOW_ZERO = "below zero"
# Units of each dimension, with their size in its smallest one.
_UNITS = {
    "time": (
        ("seconds?, secs?, s", 1),
        ("minutes?, mins?", 60),
        ("hours?, hrs?, h", 3_600),
        ("days?", 86_400),
        ("weeks?", 604_800),
    ),
    "length": (
        ("millimeters?, millimetres?, mm", 1),
        ("centimeters?, centimetres?, cm", 10),
        ("meters?, metres?, m", 1_000),
        ("kilometers?, kilometres?, km", 1_000_000),
    ),
    "English length": (("inch(?:es)?", 1), ("feet, foot, ft", 12), ("yards?, yd", 36), ("miles?", 63_360)),
    "weight": (("milligrams?, mg", 1), ("grams?, g", 1_000), ("kilograms?, kilos?, kg", 1_000_000)),
    "English weight": (("ounces?, oz", 1), ("pounds?, lbs?", 16)),
    "volume": (("milliliters?, millilitres?, ml", 1), ("liters?, litres?, l", 1_000)),
    "money": (("cents?", 1), ("dollars?", 100)),
    "Celsius": (("(?:°|degrees?) ?C, (?:degrees? )?Celsius", 1),),
    "Fahrenheit": (("(?:°|degrees?) ?F, (?:degrees? )?Fahrenheit", 1),),
}
_SIZES = [
    (re.compile(any_of(phrases(names)), re.IGNORECASE), dimension, size)
    for dimension, units in _UNITS.items()
    for names, size in units
]
_ANY = any_of(phrase for units in _UNITS.values() for names, _ in units for phrase in phrases(names))
# "3 hours" but not "3 hours' work" or "40 km per hour"; "3 degrees below zero".
_UNIT_AFTER = re.compile(
    rf"""
    [\s*_-]? (?P<unit> {_ANY} ) \b (?! ['’/] | \s (?:per|a|an|each)\b | [ ]?[\^²³] )
    | \s? (?:°|degrees?)? \s? (?:C|F|Celsius|Fahrenheit)? \s below[ ]zero \b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def unit_after(text: str, end: int) -> str:
    """Return the convertible unit, or "below zero", after a number that ends at ``end``; "" without one.

    >>> unit_after("2.5 hours", 3), unit_after("2 apples", 1), unit_after("3 degrees below zero", 1)
    ('hours', '', 'below zero')
    """
    unit = _UNIT_AFTER.match(text, end)
    return "" if unit is None else unit["unit"] or BELOW_ZERO


def same_quantity(value: Fraction, unit: str, expected: Fraction, expected_unit: str) -> bool:
    """Return whether two quantities are equal; units that cannot be converted do not count.

    "3 below zero" is -3, and also the answer 3 to "how many degrees below zero?".

    >>> same_quantity(Fraction(150), "minutes", Fraction(5, 2), "hours")
    True
    """
    if unit == BELOW_ZERO:
        return abs(expected) == value
    left, right = _size(unit), _size(expected_unit)
    if left is None or right is None or left[0] != right[0]:
        return value == expected
    return value * left[1] == expected * right[1]


def units_differ(unit: str, other: str) -> bool:
    """Return whether two units measure different things; one letter may stand for several units.

    >>> units_differ("°C", "°F"), units_differ("hours", "minutes"), units_differ("m", "minutes")
    (True, False, False)
    """
    left, right = _size(unit), _size(other)
    return left is not None and right is not None and left[0] != right[0] and min(len(unit), len(other)) > 1


def _size(unit: str) -> tuple[str, int] | None:
    """Return dimension and size of a unit; None if it is not convertible."""
    return next(((dimension, size) for names, dimension, size in _SIZES if names.fullmatch(unit)), None)

"""Units of measurement, and nouns after a count."""

import re

from promptstage.grading.reading.patterns import any_of

_ANGLES = "degrees? deg radians?"
_LENGTHS = """
    inch(?:es)? in feet foot ft yards? yd miles? mi cm mm km m
    met(?:er|re)s? (?:centi|milli|kilo)met(?:er|re)s?
"""
_VOLUMES = "lit(?:er|re)s? l ml cups? gallons? quarts?"
_WEIGHTS = "grams? g kg kilograms? pounds? lbs? ounces? oz tons?"
_TIMES = r"""
    seconds? sec s minutes? min hours? hrs? h days? weeks? months? years? a\.?m\.? p\.?m\.?
"""
_SPEEDS = "mph kph"
_MONEY = "dollars? cents? nickels? dimes? quarters? pennies"
_LINKS = "square sq cubic per"
_COUNTED_IN_MATHEMATICS = """
    percent units? times numbers? integers? solutions? values? digits? terms? zeros zeroes points?
    triangles? cubes? sides? diagonals? faces? edges? rows? revolutions? ways? pieces?
"""
_COUNTED_IN_STORIES = """
    people students? boys? girls? children apples? marbles? coins? balls? votes? books? cookies? games?
    tiles? pages? boxes bags? cars? cats? dogs? meals? pencils?
"""
UNIT = any_of(
    f"""
    {_ANGLES} {_LENGTHS} {_VOLUMES} {_WEIGHTS} {_TIMES} {_SPEEDS} {_MONEY} {_LINKS}
    {_COUNTED_IN_MATHEMATICS} {_COUNTED_IN_STORIES}
    """.split()
)
_SPACING = r"(?: \s | \\[,;! ] | ~ )*"
# At the end of a formula: \text{ cm}^2, "cm^2", "miles per hour".
_AT_END = re.compile(
    rf"""
    {_SPACING}
    (?: \\(?:text\w*|mbox|mathrm|hbox|rm) \s* \{{ \s* (?P<text>[^{{}}]*) \}}
      | (?<=[\d}})$.\s]) (?<![a-zA-Z\\]) (?<![,=(]\s)
        (?P<bare> {UNIT}\b (?: [\s/.]+ {UNIT}\b )* )
    )
    (?P<power> \s* \^ \s* \{{? \s* [23] \s* \}}? )?
    \.? \s* $
    """,
    re.IGNORECASE | re.VERBOSE,
)
_KNOWN = re.compile(rf"\s* {UNIT} (?: [\s/^.23{{}}-]+ (?:{UNIT}\b)? )* \s*", re.IGNORECASE | re.VERBOSE)
_AFTER_NUMBER = re.compile(rf"[\d}})] {_SPACING} $", re.VERBOSE)
_CURRENCY = re.compile(r"\s*\\?\$\s*(?=[\d.])|US\\?\$")
# 5 \frac{\text{m}}{\text{s}}
_RATE = re.compile(
    r"(?<=\d) (?: \s | \\[ ,;] )* \\frac \{\\text\{([a-z ]+)\}\} \{\\text\{([a-z ]+)\}\} $", re.VERBOSE
)
_COUNT = re.compile(r"(-?[\d.,/]*\d)\s+[a-zA-Z][a-zA-Z' -]{2,40}")
_AMOUNT = re.compile(r"[\d\\})]")  # not in "no solution", "all integers"
_SEPARATORS = re.compile(r"[\s.{}^]+")
_BRITISH_RE = re.compile(r"(met|lit)re")
_HALF_OF_DAY = re.compile(r"\b([ap])\.\s?m\b\.?")  # p.m.
_PER = re.compile(r"\s*(?:/|\bper\b)\s*")
_NO_POWER = re.compile("[^23]")

_POWERS = {"square ": "2", "sq ": "2", "cubic ": "3"}
_SAME_UNITS = {
    "in": "inch",
    "inche": "inch",
    "ft": "foot",
    "feet": "foot",
    "meter": "m",
    "centimeter": "cm",
    "kilometer": "km",
    "millimeter": "mm",
    "hr": "hour",
    "h": "hour",
    "min": "minute",
    "sec": "second",
    "s": "second",
    "lb": "pound",
    "gram": "g",
    "kilogram": "kg",
    "deg": "degree",
    "percent": "%",
    "mi": "mile",
    "liter": "l",
    "milliliter": "ml",
    "mph": "mile/hour",
    "kph": "km/hour",
    "kmh": "km/hour",
}


def split_unit(formula: str) -> tuple[str, str]:
    r"""Split ``formula`` into amount and unit; the unit is normalized, and "" if there is none.

    >>> split_unit(r"5 \text{ square inches}"), split_unit("5 red balloons")
    (('5', 'inch^2'), ('5', ''))
    """
    if currency := _CURRENCY.match(formula):
        return formula[currency.end() :].strip(), "dollar"
    formula = _RATE.sub(r" \\text{\1 per \2}", formula)
    unit = _AT_END.search(formula)
    count = _COUNT.fullmatch(formula)
    if count and (unit is None or unit.start() > count.end(1) + 1):
        return count[1], ""
    if unit is None:
        return formula, ""
    amount = formula[: unit.start()]
    if not amount.strip() or not _is_unit(unit, amount):
        return formula, ""
    name = unit["bare"] if unit["text"] is None else unit["text"]
    return amount.strip(), _normalize_unit(name, _NO_POWER.sub("", unit["power"] or ""))


def _is_unit(unit: re.Match[str], amount: str) -> bool:
    r"""Return whether the text after ``amount`` is its unit; in ``\text``, any word after a number is one."""
    if unit["text"] is None:
        return bool(_AMOUNT.search(amount))
    return bool(_KNOWN.fullmatch(unit["text"]) or _AFTER_NUMBER.search(amount))


def _normalize_unit(name: str, power: str) -> str:
    """Normalize a unit: ``square inches`` to ``inch^2``, ``miles per hour`` to ``mile/hour``."""
    name = _HALF_OF_DAY.sub(r"\1m", name.lower())
    name = _BRITISH_RE.sub(r"\1er", _SEPARATORS.sub(" ", name).strip())
    for prefix, exponent in _POWERS.items():
        if name.startswith(prefix):
            name, power = name.removeprefix(prefix), exponent
    parts = (part if part == "s" else part.rstrip("s") for part in _PER.split(name))
    name = "/".join(_SAME_UNITS.get(part, part) for part in parts)
    return f"{name}^{power}" if power else name

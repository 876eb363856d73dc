"""Numbers in running text, with their exact values."""

import re
from fractions import Fraction

from promptstage.grading.reading.patterns import any_of, phrases

MAX_DIGITS = 1000  # longer numbers are not answers, and slow to convert

_LATEX = (
    # \frac{3}{4}, \frac34
    (re.compile(r"\\[dtc]?frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}"), r" \1/\2"),
    (re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)"), r" \1/\2"),
    # fonts and spaces
    (
        re.compile(
            r"\\(?:text\w*|mbox|mathrm|mathbf|bf|textbf|,|!|;|:|quad|left|right|displaystyle)(?![a-zA-Z])\s*"
        ),
        "",
    ),
    # signs
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\s?\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree"), "°"),
    (re.compile(r"\\(?:times|cdot)\b"), "×"),
    (re.compile(r"\\(?:approx|equiv)\b"), "="),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"\{,\}"), ","),
)
# Continental European 1.450.000 and 70.000,00.
_CONTINENTAL = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+(?:,\d{1,2}(?!\d)|(?<=\.\d{3}\.\d{3})(?![\d,]))")
# 2^5 and 10^6, but not in 3 × 10^6.
_POWER = re.compile(r"(?<![\w.,^×*])(?<![×x*]\s)(\d{1,3})\s?\^\s?(?:\{(\d{1,2})\}|(\d{1,2}))(?!\d|\.\d|\^)")
# The comma of "3,1415" separates two numbers.
_LISTED = re.compile(r"(?<=\d),(?=\s?\d{4})")

NUMBER = re.compile(
    r"""
    (?<![\w\\.])
    # -, +, minus; not the operator of "(5)-3"
    (?P<sign> (?<![)\]%])[-+](?=\s?[$€£¥]?[\d.]) | (?i:minus|negative)\s+ )?
    # $, US$, $-, EUR
    (?: (?:US|A|C)?[$€£¥₹]\s?(?P<minus>-)? | (?:USD|Rs\.?|INR|EUR|GBP)\s? )?
    # 1,000; 1 000; 1'000; 1000
    (?P<whole> \d{1,3}(?:,\d{3})+(?!\d) | \d{1,3}(?:[ ]\d{3})+(?![\d/.,]) | \d{1,3}(?:'\d{3})+(?!\d) | \d+ )?
    (?P<decimals> (?<=\d)\.\d+ | (?<![\d.])\.\d+ )?
    (?(whole) | (?(decimals) | (?!)))     # at least one of the two
    # 2 1/2, 2 and 1/2; 1/2
    (?: (?:\s+|\s?and\s|-) (?P<above>\d+)\s?/\s?(?P<below>\d+)(?![\d/])
      | \s?/\s?(?P<divisor>\d+)(?![\d/]|\.\d)
    )?
    # × 10^5, e5
    (?: \s?[×x*]\s?10\s?\^\s?\{?(?P<power>-?\d{1,3})\}? | [eE](?P<exponent>[+-]?\d{1,3})(?!\w) )?
    (?P<scale> \s?(?i:thousand|million|billion|trillion)\b | (?<=\d)[kK]\b )?
    """,
    re.VERBOSE,
)
# Name and unit of a reference: "x =", "Total:"; "apples", "km/h", "cm²", but not "dozen" or "and a half".
_NAME = re.compile(r"[A-Za-z][\w ]{0,30}[=:]\s*(?=[-+$€£¥₹]?\s?[.\d])")
_UNIT = re.compile(
    r"""
    (?! .* \b (?i: dozens? | scores? | hundreds? | pairs? | or | and | to | half | halves | thirds?
        | quarters? | is | are | was | were | not ) \b )
    (?! \s? [A-Za-z] \s* $ (?<! [mgshlLkKCFNVWJA] ) )     # a variable
    \s? [A-Za-z°%€£] [A-Za-z°%²³.'$€£/ -]* (?: \^\{?[23]\}? )? \s*
    """,
    re.VERBOSE,
)
_SCALES = {"thousand": 3, "k": 3, "million": 6, "billion": 9, "trillion": 12}
_GROUPING = str.maketrans("", "", ", '")

# Numbers that are not quantities: the hour of 5:30 (but the 5 of "5:00" is one) …
MINUTES = re.compile(r":(?!00\b)\d|:00\b(?=:)")
_HOUR = re.compile(r"\d:$")
# … and ordinal labels: "Step 3", "#3".
_NUMBERED = any_of(
    phrases(
        r"""step, day, week, month, year, part, case, chapter, page, grade, no\.?, number, question, problem,
        equation, eq\., room, option, method"""
    )
)
_PLACE = re.compile(rf"(?:\b{_NUMBERED}|#)\s?\(?$", re.IGNORECASE)


def normalize_numbers(text: str) -> str:
    """Remove LaTeX commands from ``text`` and write its numbers in one notation."""
    if "\\" in text or "{," in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    text = _CONTINENTAL.sub(lambda number: number[0].replace(".", "").replace(",", "."), text)
    if "^" in text:
        text = _POWER.sub(lambda power: str(int(power[1]) ** int(power[2] or power[3])), text)
    return _LISTED.sub(", ", text)


def to_fraction(text: str) -> Fraction | None:
    """Return the exact value of a text that is one number; None for any other text.

    >>> to_fraction("$1,000"), to_fraction("2 1/2"), to_fraction("1.5 million"), to_fraction("5 apples")
    (Fraction(1000, 1), Fraction(5, 2), Fraction(1500000, 1), None)
    """
    text = normalize_numbers(text).strip().strip("*_${} ").rstrip("%. ").strip()
    match = NUMBER.fullmatch(text)
    return match_value(match) if match else None


def reference_value(text: str) -> Fraction | None:
    """Return the exact value of a reference, with or without name and unit; None if it is not a number.

    >>> reference_value("3 apples"), reference_value("x = 5"), reference_value("12:30")
    (Fraction(3, 1), Fraction(5, 1), None)
    """
    text = _NAME.sub("", normalize_numbers(text).strip())
    if (number := to_fraction(text)) is not None:
        return number
    match = NUMBER.match(text)
    return match_value(match) if match and _UNIT.fullmatch(text, match.end()) else None


def match_value(match: re.Match[str]) -> Fraction | None:
    """Return the value of a match of ``NUMBER``; None for a zero denominator or too many digits."""
    if match.end() - match.start() > MAX_DIGITS:
        return None
    result = Fraction((match["whole"] or "0").translate(_GROUPING) + (match["decimals"] or ""))
    if denominator := match["below"] or match["divisor"]:
        if not int(denominator):
            return None
        above = match["above"]
        result = result + Fraction(int(above), int(denominator)) if above else result / int(denominator)
    if exponent := match["power"] or match["exponent"]:
        result *= Fraction(10) ** int(exponent)
    if scale := match["scale"]:
        result *= 10 ** _SCALES[scale.strip().lower()]
    sign = (match["sign"] or "+").strip()
    return result if sign == "+" and not match["minus"] else -result


def find_numbers(text: str) -> list[re.Match[str]]:
    """Return the matches of all numbers in ``text`` that are quantities, unlike clock times and "Step 3"."""
    matches = []
    for match in NUMBER.finditer(text):
        before = text[max(0, match.start() - 12) : match.start()]
        if not (MINUTES.match(text, match.end()) or _HOUR.search(before) or _PLACE.search(before)):
            matches.append(match)
    return matches

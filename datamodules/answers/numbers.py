"""Numbers in text, read exactly."""

import re
from fractions import Fraction

from promptstage.datamodules.answers.patterns import either, phrases

MAX_DIGITS = 1000  # beyond this no answer is meant, and turning it into an integer costs

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
# The continent's 1.450.000 and 70.000,00.
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
    (?(whole) | (?(decimals) | (?!)))     # one of the two at least
    # 2 1/2, 2 and 1/2; 1/2
    (?: (?:\s+|\s?and\s|-) (?P<above>\d+)\s?/\s?(?P<below>\d+)(?![\d/])
      | \s?/\s?(?P<divisor>\d+)(?![\d/.])
    )?
    # × 10^5, e5
    (?: \s?[×x*]\s?10\s?\^\s?\{?(?P<power>-?\d{1,3})\}? | [eE](?P<exponent>[+-]?\d{1,3})(?!\w) )?
    (?P<scale> \s?(?i:thousand|million|billion|trillion)\b | (?<=\d)[kK]\b )?
    """,
    re.VERBOSE,
)
# Of a reference: "x =", "Total:"; "apples", "km/h", "cm²", but not "dozen", "hundred" or "and a half".
_NAME = re.compile(r"[A-Za-z][\w ]{0,30}[=:]\s*(?=[-+$€£¥₹]?\s?[.\d])")
_UNIT = re.compile(
    r"""
    (?! .* \b (?i: dozens? | scores? | hundreds? | pairs? | or | and | to | half | halves | thirds?
        | quarters? ) \b )
    (?! \s? [A-Za-z] \s* $ (?<! [mgshlLkKCFNVWJA] ) )     # a variable
    \s? [A-Za-z°%€£] [A-Za-z°%²³.'$€£/ -]* (?: \^\{?[23]\}? )? \s*
    """,
    re.VERBOSE,
)
_SCALES = {"thousand": 3, "k": 3, "million": 6, "billion": 9, "trillion": 12}
_GROUPING = str.maketrans("", "", ", '")

# What counts nothing: the hour of 5:30 (the 5 of "5:00" does count) …
MINUTES = re.compile(r":(?!00\b)\d|:00\b(?=:)")
_HOUR = re.compile(r"\d:$")
# … and the number of a place: "Step 3", "#3".
_NUMBERED = either(
    phrases(
        r"""step, day, week, month, year, part, case, chapter, page, grade, no\.?, number, question, problem,
        equation, eq\., room, option, method"""
    )
)
_PLACE = re.compile(rf"(?:\b{_NUMBERED}|#)\s?\(?$", re.IGNORECASE)


def plain(text: str) -> str:
    """``text`` without LaTeX's commands, numbers in one spelling."""
    if "\\" in text or "{," in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    text = _CONTINENTAL.sub(lambda number: number[0].replace(".", "").replace(",", "."), text)
    if "^" in text:
        text = _POWER.sub(lambda power: str(int(power[1]) ** int(power[2] or power[3])), text)
    return _LISTED.sub(", ", text)


def to_fraction(text: str) -> Fraction | None:
    """The exact value of a number and nothing else: 1,000; $5; -3; 2 1/2; 50%; 1.5 million; or None."""
    text = plain(text).strip().strip("*_${} ").rstrip("%. ").strip()
    match = NUMBER.fullmatch(text)
    return value(match) if match else None


def reference_value(text: str) -> Fraction | None:
    """Return the exact value of a reference, which may have a name or a unit; None if it is not a number.

    >>> reference_value("3 apples"), reference_value("x = 5"), reference_value("12:30")
    (Fraction(3, 1), Fraction(5, 1), None)
    """
    text = _NAME.sub("", plain(text).strip())
    if (known := to_fraction(text)) is not None:
        return known
    match = NUMBER.match(text)
    return value(match) if match and _UNIT.fullmatch(text, match.end()) else None


def value(match: re.Match[str]) -> Fraction | None:
    """What a match of ``NUMBER`` is worth; None for a zero denominator or too many digits."""
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


def numbers(text: str) -> list[re.Match[str]]:
    """All numbers of ``text`` that count something: no clock times, no "Step 3"."""
    found = []
    for match in NUMBER.finditer(text):
        before = text[max(0, match.start() - 12) : match.start()]
        if not (MINUTES.match(text, match.end()) or _HOUR.search(before) or _PLACE.search(before)):
            found.append(match)
    return found

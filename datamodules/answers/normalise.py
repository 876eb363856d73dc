"""One spelling for formulas that mean the same: spacing, sizes, text commands, units, thousands separators."""

import re

_UNICODE = {
    "π": r"\pi ",
    "∞": r"\infty ",
    "√": r"\sqrt",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "×": r"\times ",
    "·": r"\cdot ",
    "°": r"^\circ",
    "²": "^2",
    "³": "^3",
    "⁴": "^4",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∅": r"\emptyset ",
    "±": r"\pm ",
    "θ": r"\theta ",
    "∈": r"\in ",
    "÷": r"\div ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "₂": "_2",
    "₃": "_3",
    "₄": "_4",
    "₅": "_5",
    "₆": "_6",
    "₇": "_7",
    "₈": "_8",
    "₉": "_9",
}
_TABLE = str.maketrans(_UNICODE)

_UNITS = (
    "degrees?|deg|radians?|percent|dollars?|cents?|units?|inch(?:es)?|in|feet|foot|ft|yards?|yd|miles?|mi|cm|mm|km|m|met(?:er|re)s?|"
    "(?:centi|milli|kilo)met(?:er|re)s?|lit(?:er|re)s?|l|ml|grams?|g|kg|kilograms?|pounds?|lbs?|ounces?|oz|tons?|seconds?|sec|s|minutes?|min|hours?|hrs?|h|"
    "days?|weeks?|months?|years?|mph|kph|people|students?|ways?|square|sq|cubic|per|apples?|marbles?|coins?|points?|balls?|votes?|books?|cookies?|"
    "games?|boys?|girls?|children|times|tiles?|pieces?|cups?|gallons?|quarts?|pages?|boxes|bags?|cars?|cats?|dogs?|numbers?|integers?|solutions?|values?|"
    "a\\.?m\\.?|p\\.?m\\.?|meals?|triangles?|revolutions?|pencils?|cubes?|sides?|diagonals?|faces?|edges?|rows?|terms?|zeros|zeroes|digits?|nickels?|dimes?|quarters?|pennies"
)
UNIT = re.compile(
    rf"(?i)(?:\s|\\[,;! ]|~)*(?:\\(?:text\w*|mbox|mathrm|hbox|rm)\s*\{{\s*(?P<text>[^{{}}]*)\}}|(?<=[\d}})$.\s])(?P<bare>(?<![a-zA-Z\\])(?<![,=(]\s)(?:{_UNITS})\b(?:[\s/.]+(?:{_UNITS})\b)*))"
    r"(?P<power>\s*\^\s*\{?\s*[23]\s*\}?)?\.?\s*$"
)
_KNOWN_UNIT = re.compile(rf"(?i)\s*(?:{_UNITS})(?:[\s/^.23{{}}-]+(?:(?:{_UNITS})\b)?)*\s*")

_REPLACED = (
    (
        re.compile(
            r"\\(?:text|mbox|textrm|mathrm)\s*\{[,\s]*or\s*\}|\\lor(?![a-zA-Z])|(?<=[\s\d)}$]),?\s+or(?=\s)"
        ),
        "∨",
    ),
    (re.compile(r"\\(?:text|mbox|textrm|mathrm)\s*\{[,\s]*and\s*\}|(?<=[\s\d)}$,])\s*\band(?=\s)"), ","),
    (
        re.compile(
            r"\\(?:left|right|displaystyle|textstyle|bigl?|bigr?|Bigl?|Bigr?|limits|nolimits)(?![a-zA-Z])"
        ),
        "",
    ),
    (re.compile(r"\\\\(?:\[-?[\d.]+\s*(?:pt|em|ex|mm|cm)\])?"), "\x01"),  # ends a row: no spacing command
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\langle(?![a-zA-Z])"), "("),
    (re.compile(r"\\rangle(?![a-zA-Z])"), ")"),
    (
        re.compile(
            r"\\(?:mathbb|Bbb)\s*\{?R\}?|\\R(?![a-zA-Z])|\\(?:text|mathrm)\{ ?all real numbers\.? ?\}"
        ),
        r"(-\\infty,\\infty)",
    ),
    (re.compile(r"(?<![\w)}\]])\+(?=\\infty)"), ""),
    (
        re.compile(r"\\(?:text\w*|mbox|mathrm|mathbf|hbox|operatorname\*?|mathit|boldsymbol)\s*\{([^{}]*)\}"),
        r"\1",
    ),
    (re.compile(r"\\p?mod\s*(?:\{[^{}]*\}|\d+)|\(\s*\\(?:mod|bmod)\s*\d+\s*\)"), ""),
    (re.compile(r"\\equiv(?![a-zA-Z])"), "="),
    (re.compile(r"\\(?:rm|bf|it)(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:l[vV]ert|r[vV]ert|vert)(?![a-zA-Z])"), "|"),
    (re.compile(r"\\l?brace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"(?<=\d)(?:\{,\}|,\s?\\!|\\!,|\\!\s?,|\\,|\\!,\\!)(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\(?:[,!;:> ]|quad|qquad|hspace\{[^{}]*\}|hfill|hskip)|~|&nbsp;"), ""),
    (re.compile(r"\^\s*\{?\s*(?:\\circ|\\degree)\s*\}?|\\degree(?![a-zA-Z])"), ""),
    (re.compile(r"\\[$]|(?<!\\)\$|\\?%"), ""),
    (re.compile(r"\\le(?:q|qslant)?(?![a-zA-Z])"), "<="),
    (re.compile(r"\\ge(?:q|qslant)?(?![a-zA-Z])"), ">="),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\neq?(?![a-zA-Z])"), r"\\ne"),
    (re.compile(r"\\(?:varnothing)(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\(?:cdot|times|ast)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\(?:colon|!:)"), ":"),
    (
        re.compile(r"(?<![\d,(\[])(?<!\\\{)(\d{1,3}(?:,\d{3})+)(?![\d,])"),
        lambda match: match[1].replace(",", ""),
    ),
    (re.compile(r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*\{([^{}]*)\}\s*([0-9a-zA-Z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*([0-9a-zA-Z])\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"\\sqrt\s*([0-9a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<=[\^_])\{(-?\w)\}"), r"\1"),
)
_AFTER_COMMAND = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])")
_SPACE = re.compile(r"\s+")
_MIXED = re.compile(r"(?<![\d/.}])(\d+)(?: |\s?-\s?| and )(\d+)/(\d+)(?![\d/])")
_WORDED_BASE = re.compile(r"(?i)\b(\w+),?\s+(?:in\s+)?base[ -](\w+)$")
_NAMED_BASE = re.compile(
    r"_\s*\{?\s*(?:\\(?:text\w*|mathrm)\s*\{)?\s*(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\s*\}?\s*\}?",
    re.IGNORECASE,
)
_BASES = {
    word: str(i)
    for i, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=2
    )
}


def spell(formula: str) -> str:
    """``formula`` with LaTeX commands for Unicode signs, without surrounding marks."""
    formula = formula.translate(_TABLE).strip().strip("*\"'").strip()
    if whole := re.fullmatch(r"\\(?:text\w*|mbox|mathrm)\s*\{([^{}]*)\}", formula):
        formula = whole[1].strip()
    formula = _NAMED_BASE.sub(lambda m: f"_{{{_BASES[m[1].lower()]}}}", formula)
    formula = _MIXED.sub(r"\1\\frac{\2}{\3}", formula)
    return _WORDED_BASE.sub(lambda m: f"{m[1]}_{{{_BASES.get(m[2].lower(), m[2])}}}", formula)


def unit_of(formula: str) -> tuple[str, str]:
    """``formula`` without its unit, and the unit as a plain word ("cm^2"); "" without one."""
    if currency := re.match(r"\s*\\?\$\s*(?=[\d.])|US\\?\$", formula):
        return formula[currency.end() :].strip(), "dollar"
    formula = re.sub(r"(?<=\d)(?:\s|\\[ ,;])*\\frac\{\\text\{[a-z ]+\}\}\{\\text\{[a-z ]+\}\}$", "", formula)
    if counted := re.fullmatch(r"(-?[\d.,/]*\d)\s+[a-zA-Z][a-zA-Z' -]{2,40}", formula):
        bare = UNIT.search(formula)
        if bare is None or bare.start() > len(counted[1]) + 1:
            return counted[1], ""
    match = UNIT.search(formula)
    if match is None or not formula[: match.start()].strip():
        return formula, ""
    word = match["text"] if match["text"] is not None else match["bare"]
    if (
        match["text"] is not None
        and not _KNOWN_UNIT.fullmatch(word)
        and not re.search(r"[\d})]\s*(?:\\[,;! ]|\s|~)*$", formula[: match.start()])
    ):
        return formula, ""
    power = re.sub(r"[^23]", "", match["power"] or "")
    word = re.sub(r"[\s.{}^]+", " ", word.lower()).strip()
    return formula[: match.start()].strip(), word.rstrip("s") + (f"^{power}" if power else "")


def normalise(formula: str) -> str:
    """``formula`` without what does not change its meaning."""
    formula = spell(formula)
    for pattern, replacement in _REPLACED:
        formula = pattern.sub(replacement, formula)
    formula = _SPACE.sub("", _AFTER_COMMAND.sub("\\1\x00", formula)).replace("\x00", " ")
    return formula.replace("\x01", "\\\\").rstrip(".,;").removesuffix("\\")

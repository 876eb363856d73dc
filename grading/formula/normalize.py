"""Normalization of LaTeX formulas: spacing, sizes, text commands, units, thousands separators."""

import re
from collections.abc import Callable
from typing import NamedTuple

from promptstage.grading.reading.patterns import any_of, phrases

_SIGNS = str.maketrans(
    {
        "π": r"\pi ",
        "∞": r"\infty ",
        "√": r"\sqrt",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": r"\div ",
        "±": r"\pm ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∅": r"\emptyset ",
        "∈": r"\in ",
        "α": r"\alpha ",
        "β": r"\beta ",
        "θ": r"\theta ",
        "°": r"^\circ",
        **{sign: f"^{digit}" for digit, sign in enumerate("²³⁴", start=2)},
        **{sign: f"_{digit}" for digit, sign in enumerate("₂₃₄₅₆₇₈₉", start=2)},
    }
)

_BASES = {
    word: str(base)
    for base, word in enumerate(
        phrases("two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"), start=2
    )
}
_WHOLE_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm)\s*\{([^{}]*)\}")
# 2 1/2, 2-1/2, 2 and 1/2
_MIXED = re.compile(r"(?<![\d/.}])(\d+)(?: |\s?-\s?| and )(\d+)/(\d+)(?![\d/])")
# √39, √(x + 1)
_ROOT = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[a-zA-Z])|\(([^()]*)\))")
_UNION = re.compile(r"(?<=[)\]])\s*U\s*(?=[(\[])")  # (0,1) U (2,3)
# 413 in base 5, 413 base five
_WORDED_BASE = re.compile(r"\b(\w+),?\s+(?:in\s+)?base[ -](\w+)$", re.IGNORECASE)
# 413_{\text{five}}
_NAMED_BASE = re.compile(
    rf"_\s*\{{?\s*(?:\\(?:text\w*|mathrm)\s*\{{)?\s*({any_of(_BASES)})\s*\}}?\s*\}}?", re.IGNORECASE
)

# Placeholders, while all other spaces and single backslashes are removed.
_BLANK, _ROW_END = "\x00", "\x01"


class _Step(NamedTuple):
    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]


def _step(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> _Step:
    return _Step(re.compile(pattern, re.VERBOSE), replacement)


def _commands(names: str, replacement: str) -> _Step:
    r"""Return a step for whole LaTeX commands: ``\le``, but not the beginning of ``\left``."""
    return _step(rf"\\{any_of(names.split())}(?![a-zA-Z])", replacement)


_STEPS = (
    # Conjunctions between members of a list.
    _step(
        r"""
        \\(?:text|mbox|textrm|mathrm) \s* \{ [,\s]* or \s* \}
        | \\lor(?![a-zA-Z])
        | (?<=[\s\d)}$]) ,? \s+ or (?=\s)
        """,
        "∨",
    ),
    _step(
        r"""
        \\(?:text|mbox|textrm|mathrm) \s* \{ [,\s]* and \s* \}
        | (?<=[\s\d)}$,]) \s* \b and (?=\s)
        """,
        ",",
    ),
    # Sizes.
    _commands("left right displaystyle textstyle bigl? bigr? Bigl? Bigr? limits nolimits", ""),
    _step(r"\\\\ (?: \[ -?[\d.]+ \s* (?:pt|em|ex|mm|cm) \] )?", _ROW_END),
    _step(r"\\[dtc]frac", r"\\frac"),
    # Brackets, and the real line.
    _commands("langle", "("),
    _commands("rangle", ")"),
    _step(
        r"""
        \\(?:mathbb|Bbb) \s* \{?R\}?
        | \\R(?![a-zA-Z])
        | \\(?:text|mathrm)\{[ ]?all[ ]real[ ]numbers\.?[ ]?\}
        """,
        r"(-\\infty,\\infty)",
    ),
    _step(r"(?<![\w)}\]]) \+ (?=\\infty)", ""),
    # Text commands, and the modulus of a remainder: 3 (mod 7).
    _step(
        r"\\(?:text\w*|mbox|mathrm|mathbf|hbox|operatorname\*?|mathit|boldsymbol) \s* \{([^{}]*)\}",
        r"\1",
    ),
    _step(r"\\p?mod \s* (?: \{[^{}]*\} | \d+ ) | \( \s* \\(?:mod|bmod) \s* \d+ \s* \)", ""),
    _commands("equiv", "="),
    _commands("rm bf it", ""),
    _commands("l[vV]ert r[vV]ert vert", "|"),
    _commands("l?brace", r"\\{"),
    _commands("rbrace", r"\\}"),
    # Spacing, and thousands separators made of it: 1{,}000, 1,\!000.
    _commands("thinspace", r"\\,"),
    _step(
        r"(?<=\d) (?: \{,\}(?:\\!)? | ,\s?\\!\s? | \\!,\s? | \\!\s?, | \\, | \\!,\\! ) (?=\d{3}(?!\d))", ""
    ),
    _step(r"\\(?: [,!;:>\ ] | quad | qquad | hspace\{[^{}]*\} | hfill | hskip ) | ~ | &nbsp;", ""),
    # Degrees, currency and percent.
    _step(r"\^ \s* \{? \s* (?:\\circ|\\degree) \s* \}? | \\degree(?![a-zA-Z])", ""),
    _step(r"\\[$] | (?<!\\)\$ | \\?%", ""),
    # Signs.
    _commands("le(?:q|qslant)?", "<="),
    _commands("ge(?:q|qslant)?", ">="),
    _commands("lt", "<"),
    _commands("gt", ">"),
    _commands("neq?", r"\\ne"),
    _commands("varnothing", r"\\emptyset"),
    _step(r"\\[cld]?dots[cbmio]?(?![a-zA-Z]) | \.\.\. | …", r"\\ldots"),
    _commands("cdot times ast", "*"),
    _step(r"\\(?:colon|!:)", ":"),
    # 10,000, but not the list (1,234) or \{1,234\}.
    _step(
        r"(?<![\d,(\[]) (?<!\\\{) \d{1,3}(?:,\d{3})+ (?![\d,])",
        lambda number: number[0].replace(",", ""),
    ),
    # \frac12, \frac{1}2, \frac1{2}, \sqrt2, x^{2}: braces around all arguments but one-character exponents.
    _step(r"\\frac \s* ([0-9a-zA-Z]) \s* ([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
    _step(r"\\frac \s* \{([^{}]*)\} \s* ([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
    _step(r"\\frac \s* ([0-9a-zA-Z]) \s* \{", r"\\frac{\1}{"),
    _step(r"\\sqrt \s* ([0-9a-zA-Z])", r"\\sqrt{\1}"),
    _step(r"(?<=[\^_]) \{(-?\w)\}", r"\1"),
)
_SPACE = re.compile(r"\s+")
# The space of \pi x, without which it would be a different command.
_NEEDED_SPACE = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])")


def unify_notation(formula: str) -> str:
    r"""Replace Unicode signs, bases in words and mixed numbers by LaTeX, and remove surrounding markup.

    >>> unify_notation("*413 base five*"), unify_notation("2 1/2 π")
    ('413_{5}', '2\\frac{1}{2} \\pi')
    """
    formula = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", formula)
    formula = formula.translate(_SIGNS).strip().strip("*\"'").strip()
    if text := _WHOLE_TEXT.fullmatch(formula):
        formula = text[1].strip()
    if "U" in formula:
        formula = _UNION.sub(r"\\cup ", formula)
    formula = _NAMED_BASE.sub(lambda base: f"_{{{_BASES[base[1].lower()]}}}", formula)
    formula = _MIXED.sub(r"\1\\frac{\2}{\3}", formula)
    return _WORDED_BASE.sub(
        lambda number: f"{number[1]}_{{{_BASES.get(number[2].lower(), number[2])}}}", formula
    )


def normalize_formula(formula: str) -> str:
    r"""Remove from ``formula`` everything that does not change its meaning.

    >>> normalize_formula(r"\left( \dfrac12, 1{,}000 \right)")
    '(\\frac{1}{2},1000)'
    """
    formula = unify_notation(formula)
    for step in _STEPS:
        formula = step.pattern.sub(step.replacement, formula)
    formula = _SPACE.sub("", _NEEDED_SPACE.sub(rf"\1{_BLANK}", formula))
    formula = formula.replace(_BLANK, " ").replace(_ROW_END, r"\\")
    return formula.rstrip(".,;").removesuffix("\\")

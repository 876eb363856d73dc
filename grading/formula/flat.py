r"""One-line form of simple formulas, in which an option's text is compared with a generation."""

import re

from promptstage.grading.formula.normalize import normalize_formula

_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4}")  # text with words is not a formula
_RATIO = re.compile(r"(?<=\d)(?:\s?:\s?|\sto\s)(?=\d)")  # 2:3, 2 to 3
_FRACTION = (re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}"), r"(\1)/(\2)")
_SIMPLIFICATIONS = (
    *[_FRACTION] * 3,  # nested fractions, from the inside out
    (re.compile(r"\\sqrt\{([^{}]*)\}|\\sqrt\(([^()]*)\)"), r"√(\1\2)"),
    # Brackets around one number or letter, except those of f(x).
    (re.compile(r"(?<![a-z√])\((\w+)\)"), r"\1"),
    (re.compile(r"(?<=/)\((\w+)\)"), r"\1"),
    (re.compile(r"√\((\w+)\)"), r"√\1"),
    (re.compile(r"\\sqrt"), "√"),
    # Spaces, markup and unmatched brackets.
    (re.compile(r"[\s*^{}$\\] | (?<=/)\((?=\w+\)) | (?<=\w)\)$", re.VERBOSE), ""),
)


def flatten_formula(text: str) -> str:
    r"""Write a formula on one line without optional brackets and spaces; return "" for text with words.

    >>> flatten_formula(r"$\frac{5xy}{12w}$"), flatten_formula("5xy / (12w)")
    ('5xy/12w', '5xy/12w')
    """
    if _WORD.search(text):
        return ""
    text = normalize_formula(_RATIO.sub("/", text.strip(" .$")))
    for pattern, replacement in _SIMPLIFICATIONS:
        text = pattern.sub(replacement, text)
    return text.casefold()

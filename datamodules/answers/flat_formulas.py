r"""Formulas on one line, for telling whether an option's text and what a text says are written alike."""

import re

from promptstage.datamodules.answers.normalize import normalise

_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4}")  # a text with words is no formula
_RATIO = re.compile(r"(?<=\d):(?=\d)")
_FRACTION = (re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}"), r"(\1)/(\2)")
_SIMPLER = (
    *[_FRACTION] * 3,  # fractions in fractions, from inside out
    (re.compile(r"\\sqrt\{([^{}]*)\}|\\sqrt\(([^()]*)\)"), r"√(\1\2)"),
    # Brackets around one number or letter, except those of f(x).
    (re.compile(r"(?<![a-z√])\((\w+)\)"), r"\1"),
    (re.compile(r"(?<=/)\((\w+)\)"), r"\1"),
    (re.compile(r"√\((\w+)\)"), r"√\1"),
    (re.compile(r"\\sqrt"), "√"),
    # Blanks, markup, and brackets left without their partner.
    (re.compile(r"[\s*^{}$\\] | (?<=/)\((?=\w+\)) | (?<=\w)\)$", re.VERBOSE), ""),
)


def flat(text: str) -> str:
    r"""A formula on one line without what may be left out; empty for a text with words.

    >>> flat(r"$\frac{5xy}{12w}$"), flat("5xy / (12w)")
    ('5xy/12w', '5xy/12w')
    """
    if _WORD.search(text):
        return ""
    text = _RATIO.sub("/", normalise(text.strip(" .$")))
    for pattern, replacement in _SIMPLER:
        text = pattern.sub(replacement, text)
    return text.casefold()

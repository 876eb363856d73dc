"""Conversion of inequalities and set-builder notation to unions of intervals."""

import re

from promptstage.grading.formula.names import strip_membership

_VARIABLE = r"(?:[a-zA-Z]|\\(?:lambda|theta|alpha|beta|mu))(?:\([a-z]\))?"
# 2<x<=3 and 3>=x>2
_RISING = re.compile(rf"(?P<low>[^<>=]+)(?P<above><=?){_VARIABLE}(?P<below><=?)(?P<high>[^<>=]+)")
_FALLING = re.compile(rf"(?P<high>[^<>=]+)(?P<below>>=?){_VARIABLE}(?P<above>>=?)(?P<low>[^<>=]+)")
# x<3 and 3>x
_ONE_SIDED = re.compile(rf"{_VARIABLE}(?P<sign>[<>]=?)(?P<end>[^<>=]+)")
_ONE_SIDED_REVERSED = re.compile(rf"(?P<end>[^<>=]+)(?P<sign>[<>]=?){_VARIABLE}")
_OPPOSITE = str.maketrans("<>", "><")
# \{x:x>2\}
_BUILDER = re.compile(r"\\?\{[a-zA-Z](?:\\in\(-\\infty,\\infty\))?(?:\||:|\\mid)(?P<condition>.*?)\\?\}")
# \mathbb{R}\setminus\{2\}
_ALL_BUT_ONE_POINT = re.compile(
    r"\(-\\infty,\\infty\)(?:\\setminus|\\backslash|-|\\)\\?\{(?P<point>[^{},]+)\\?\}"
)
_COMPARISON = re.compile("[<>]")


def as_intervals(text: str) -> str:
    r"""Write a normalized inequality as an interval or union of intervals; return other text unchanged.

    >>> as_intervals("2<x<=3"), as_intervals("x<1∨x>2")
    ('(2,3]', '(-\\infty,1)\\cup(2,\\infty)')
    """
    if builder := _BUILDER.fullmatch(text):
        text = builder["condition"].strip()
    if excluded := _ALL_BUT_ONE_POINT.fullmatch(text):
        point = excluded["point"]
        return rf"(-\infty,{point})\cup({point},\infty)"
    text = strip_membership(text)
    if not _COMPARISON.search(text):
        return text
    parts = [_interval(part.strip(",")) for part in text.split("∨")]
    return r"\cup".join(part for part in parts if part) if all(parts) else text


def _interval(text: str) -> str | None:
    """Write one inequality as an interval; None for any other text."""
    if chain := _RISING.fullmatch(text) or _FALLING.fullmatch(text):
        return (
            f"{_left_bracket(chain['above'])}{chain['low']},{chain['high']}{_right_bracket(chain['below'])}"
        )
    if match := _ONE_SIDED.fullmatch(text):
        sign = match["sign"]
    elif match := _ONE_SIDED_REVERSED.fullmatch(text):
        sign = match["sign"].translate(_OPPOSITE)
    else:
        return None
    if sign.startswith("<"):
        return rf"(-\infty,{match['end']}{_right_bracket(sign)}"
    return rf"{_left_bracket(sign)}{match['end']},\infty)"


def _left_bracket(sign: str) -> str:
    return "[" if "=" in sign else "("


def _right_bracket(sign: str) -> str:
    return "]" if "=" in sign else ")"

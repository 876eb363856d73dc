"""Inequalities and set-builder notation as unions of intervals."""

import re

from promptstage.datamodules.answers.names import without_element

_VARIABLE = r"(?:[a-zA-Z]|\\(?:lambda|theta|alpha|beta|mu))(?:\([a-z]\))?"
# 2<x<=3 and 3>=x>2
_RISING = re.compile(rf"(?P<low>[^<>=]+)(?P<above><=?){_VARIABLE}(?P<below><=?)(?P<high>[^<>=]+)")
_FALLING = re.compile(rf"(?P<high>[^<>=]+)(?P<below>>=?){_VARIABLE}(?P<above>>=?)(?P<low>[^<>=]+)")
# x<3 and 3>x
_ONE_SIDED = re.compile(rf"{_VARIABLE}(?P<sign>[<>]=?)(?P<end>[^<>=]+)")
_TURNED = re.compile(rf"(?P<end>[^<>=]+)(?P<sign>[<>]=?){_VARIABLE}")
_OPPOSITE = str.maketrans("<>", "><")
# \{x:x>2\}
_BUILDER = re.compile(r"\\?\{[a-zA-Z](?:\\in\(-\\infty,\\infty\))?(?:\||:|\\mid)(?P<condition>.*?)\\?\}")
# \mathbb{R}\setminus\{2\}
_WITHOUT = re.compile(r"\(-\\infty,\\infty\)(?:\\setminus|\\backslash|-|\\)\\?\{(?P<point>[^{},]+)\\?\}")
_COMPARISON = re.compile("[<>]")


def as_intervals(text: str) -> str:
    r"""A normalised inequality as an interval, ``x<1∨x>2`` as a union; anything else as it is.

    >>> as_intervals("2<x<=3"), as_intervals("x<1∨x>2")
    ('(2,3]', '(-\\infty,1)\\cup(2,\\infty)')
    """
    if builder := _BUILDER.fullmatch(text):
        text = builder["condition"].strip()
    if without := _WITHOUT.fullmatch(text):
        point = without["point"]
        return rf"(-\infty,{point})\cup({point},\infty)"
    text = without_element(text)
    if not _COMPARISON.search(text):
        return text
    parts = [_interval(part.strip(",")) for part in text.split("∨")]
    return r"\cup".join(part for part in parts if part) if all(parts) else text


def _interval(text: str) -> str | None:
    """One inequality as an interval; None for anything else."""
    if chain := _RISING.fullmatch(text) or _FALLING.fullmatch(text):
        return f"{_from(chain['above'])}{chain['low']},{chain['high']}{_to(chain['below'])}"
    if one := _ONE_SIDED.fullmatch(text):
        sign = one["sign"]
    elif one := _TURNED.fullmatch(text):
        sign = one["sign"].translate(_OPPOSITE)
    else:
        return None
    if sign.startswith("<"):
        return rf"(-\infty,{one['end']}{_to(sign)}"
    return rf"{_from(sign)}{one['end']},\infty)"


def _from(sign: str) -> str:
    return "[" if "=" in sign else "("


def _to(sign: str) -> str:
    return "]" if "=" in sign else ")"

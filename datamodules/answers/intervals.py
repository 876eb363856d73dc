"""Inequalities and set-builder notation as unions of intervals."""

import re

_VARIABLE = r"(?:[a-zA-Z]|\\(?:lambda|theta|alpha|beta|mu))(?:\([a-z]\))?"
_CHAIN = re.compile(rf"(?P<low>[^<>=]+)(?P<a><=?)(?P<x>{_VARIABLE})(?P<b><=?)(?P<high>[^<>=]+)")
_DOWN = re.compile(rf"(?P<high>[^<>=]+)(?P<b>>=?)(?P<x>{_VARIABLE})(?P<a>>=?)(?P<low>[^<>=]+)")
_ONE = re.compile(rf"(?P<x>{_VARIABLE})(?P<sign><=?|>=?)(?P<end>[^<>=]+)")
_ONE_TURNED = re.compile(rf"(?P<end>[^<>=]+)(?P<sign><=?|>=?)(?P<x>{_VARIABLE})")
_BUILDER = re.compile(r"\\?\{(?:[a-zA-Z])(?:\\in\(-\\infty,\\infty\))?(?:\||:|\\mid)(?P<inside>.*?)\\?\}")
_WITHOUT = re.compile(r"\(-\\infty,\\infty\)(?:\\setminus|\\backslash|-|\\)\\?\{(?P<point>[^{},]+)\\?\}")
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def as_intervals(text: str) -> str:
    r"""A normalised ``2<x<=3`` as ``(2,3]``, ``x<1orx>2`` as a union; anything else as it is."""
    if match := _BUILDER.fullmatch(text):
        text = match["inside"].strip()
    if match := _WITHOUT.fullmatch(text):
        return f"(-\\infty,{match['point']})\\cup({match['point']},\\infty)"
    text = re.sub(r"^[a-zA-Z]\\in(?![a-z])", "", text)
    if not re.search("[<>]", text):
        return text
    parts = [_interval(part.strip(",")) for part in text.split("∨")]
    return "\\cup".join(part for part in parts if part) if all(parts) else text


def _interval(text: str) -> str | None:
    if match := _CHAIN.fullmatch(text) or _DOWN.fullmatch(text):
        opening, closing = ("[" if "=" in match["a"] else "("), ("]" if "=" in match["b"] else ")")
        return f"{opening}{match['low']},{match['high']}{closing}"
    match = _ONE.fullmatch(text)
    sign = match["sign"] if match else ""
    if match is None:
        match = _ONE_TURNED.fullmatch(text)
        sign = _TURNED[match["sign"]] if match else ""
    if match is None:
        return None
    if sign.startswith("<"):
        return f"(-\\infty,{match['end']}{']' if '=' in sign else ')'}"
    return f"{'[' if '=' in sign else '('}{match['end']},\\infty)"

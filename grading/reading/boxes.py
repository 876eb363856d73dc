r"""Parsing of LaTeX ``\boxed{…}``."""

import re

MAX_LENGTH = 1000  # characters inside a box

_MARK = re.compile(r"\\f?boxed(?![a-zA-Z])")
_OPENING = re.compile(r"\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace does not count
_UNBRACED = re.compile(r"\s*([^\s$.,{}]+)")  # \boxed 2
_FORMULA_END = re.compile(r"\$|\\\]|\\\)|\n\n")
# The end of a truncated formula: "x =", "\frac{1}".
_INCOMPLETE = re.compile(r"(?:[=+*/^_\\-]|\\[dt]?frac\s*(?:\{[^{}]*\})?)$")


def read_box(text: str, start: int) -> tuple[str | None, int]:
    r"""Return the content of a box and the index after it, given the index after its ``\boxed``.

    An unclosed box extends to the end of the formula if the braces in between are balanced. The content is
    None if they are not, or if the box is empty.
    """
    opening = _OPENING.match(text, start)
    if opening is None:
        bare = _UNBRACED.match(text, start)
        return (bare[1], bare.end()) if bare else (None, start)
    start, depth = opening.end(), 1
    for brace in _BRACE.finditer(text, start, start + MAX_LENGTH):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()].strip(), brace.end()
    return _read_unclosed_box(text, start)


def _read_unclosed_box(text: str, start: int) -> tuple[str | None, int]:
    """Return the content of a box that opens before ``start`` and is never closed, and the index after it."""
    end = _FORMULA_END.search(text, start, start + MAX_LENGTH)
    stop = end.start() if end else min(len(text), start + MAX_LENGTH)
    content = text[start:stop].strip().removesuffix(".").strip()
    balanced = content.count("{") == content.count("}")
    balanced &= sum(map(content.count, "([")) == sum(map(content.count, ")]"))
    return (content, stop) if content and balanced and not _INCOMPLETE.search(content) else (None, stop)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed``, with braces of any depth; None if there is none.

    >>> last_boxed(r"so \boxed{\frac{1}{2}}."), last_boxed(r"$\boxed 2$")
    ('\\frac{1}{2}', '2')
    """
    content = None
    for mark in _MARK.finditer(text):
        content = read_box(text, mark.end())[0]
    return content

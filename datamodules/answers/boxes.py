r"""``\boxed`` in LaTeX."""

import re

LONGEST = 1000  # characters of a box

_MARK = re.compile(r"\\f?boxed(?![a-zA-Z])")
_OPENING = re.compile(r"\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped sign is none
_BARE = re.compile(r"\s*([^\s$.,{}]+)")  # \boxed 2
_FORMULA_END = re.compile(r"\$|\\\]|\\\)|\n\n")
# A formula that breaks off: "x =", "\frac{1}".
_CUT_SHORT = re.compile(r"(?:[=+*/^_\\-]|\\[dt]?frac\s*(?:\{[^{}]*\})?)$")


def boxed(text: str, start: int) -> tuple[str | None, int]:
    r"""What the box whose ``\boxed`` ends at ``start`` holds, and where it ends.

    Of an unclosed box: all up to the end of the formula, if its own braces are balanced; None when they
    are not, or nothing is there.
    """
    opening = _OPENING.match(text, start)
    if opening is None:
        bare = _BARE.match(text, start)
        return (bare[1], bare.end()) if bare else (None, start)
    start, depth = opening.end(), 1
    for brace in _BRACE.finditer(text, start, start + LONGEST):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()].strip(), brace.end()
    return _unclosed(text, start)


def _unclosed(text: str, start: int) -> tuple[str | None, int]:
    """What a box holds whose brace opens before ``start`` and is never closed, and where it ends."""
    end = _FORMULA_END.search(text, start, start + LONGEST)
    stop = end.start() if end else min(len(text), start + LONGEST)
    content = text[start:stop].strip().removesuffix(".").strip()
    balanced = content.count("{") == content.count("}")
    return (content, stop) if content and balanced and not _CUT_SHORT.search(content) else (None, stop)


def last_boxed(text: str) -> str | None:
    r"""What the last readable ``\boxed`` holds, braces of any depth; None without one.

    >>> last_boxed(r"so \boxed{\frac{1}{2}}."), last_boxed(r"$\boxed 2$")
    ('\\frac{1}{2}', '2')
    """
    content = None
    for mark in _MARK.finditer(text):
        content = boxed(text, mark.end())[0]
    return content

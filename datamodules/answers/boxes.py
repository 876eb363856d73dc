r"""``\boxed`` in LaTeX."""

import re

LONGEST = 1000  # characters of a box

_MARK = re.compile(r"\\f?boxed(?![a-zA-Z])")
_OPENING = re.compile(r"\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"\s*([^\s$.,{}]+)")
_CUT = re.compile(r"(?:[=+*/^_\\-]|\\[dt]?frac\s*(?:\{[^{}]*\})?)$")
_END = re.compile(r"\$|\\\]|\\\)|\n\n")


def boxed(text: str, start: int) -> tuple[str | None, int]:
    r"""What the box whose ``\boxed`` ends at ``start`` holds, and where it ends.

    Of an unclosed box: all up to the end of the formula, if its own braces are balanced; None when they
    are not, or nothing is there.
    """
    opening = _OPENING.match(text, start)
    if opening is None:
        bare = _BARE.match(text, start)
        return (bare[1], bare.end()) if bare else (None, start)
    depth, position = 1, opening.end()
    for match in _BRACE.finditer(text, position, position + LONGEST):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[position : match.start()].strip(), match.end()
    end = _END.search(text, position, position + LONGEST)
    stop = end.start() if end else min(len(text), position + LONGEST)
    content = text[position:stop].strip().removesuffix(".").strip()
    closed = content.count("{") == content.count("}") and not _CUT.search(content)
    return (content, stop) if content and closed else (None, stop)


def last_boxed(text: str) -> str | None:
    r"""What the last readable ``\boxed`` holds, braces of any depth; None without one.

    >>> last_boxed(r"so \boxed{\frac{1}{2}}."), last_boxed(r"$\boxed 2$")
    ('\\frac{1}{2}', '2')
    """
    content = None
    for match in _MARK.finditer(text):
        content = boxed(text, match.end())[0]
    return content

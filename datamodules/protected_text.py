"""Parts of a question that a perturbation must not change."""

import re
from collections.abc import Callable

# Formulas, drawings, quotations, and words with digits or symbols.
_SIGNS = r"(?:(?!\[asy\])[^\s$])"
_PROTECTED = re.compile(
    r"""\\\$|\$\$.*?\$\$|\$(?:\\.|[^$\\])*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{.*?\\end\{\w+\*?\}|\[asy\].*?\[/asy\]"""
    r"""|"[^"]*"|“[^”]*”|``.*?''"""
    rf"|{_SIGNS}*[\\{{}}^_=<>|+*/\d](?:{_SIGNS}*[^\s,.?!;:$])?",
    re.DOTALL,
)


def protected_spans(text: str) -> list[tuple[int, int]]:
    """Return the protected half-open spans of ``text``."""
    return [match.span() for match in _PROTECTED.finditer(text)]


def is_unprotected(text: str, start: int, end: int) -> bool:
    """Return whether no part of ``text[start:end]`` is protected."""
    return all(end <= first or start >= last for first, last in protected_spans(text))


def replace_unprotected(
    text: str, pattern: re.Pattern[str], new: str | Callable[[re.Match[str]], str]
) -> str:
    """Replace the matches of ``pattern`` that contain no protected part."""
    spans = protected_spans(text)

    def replacement(match: re.Match[str]) -> str:
        if not all(match.end() <= first or match.start() >= last for first, last in spans):
            return match[0]
        return match.expand(new) if isinstance(new, str) else new(match)

    return pattern.sub(replacement, text)

"""Parts of a question that a perturbation leaves as they are."""

import re
from collections.abc import Callable

# What no rule changes: formulas, drawings, quotations, and words with digits or symbols.
_KEPT = re.compile(
    r"""\$\$.*?\$\$|\$(?:\\.|[^$\\])*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{.*?\\end\{\w+\*?\}|\[asy\].*?\[/asy\]"""
    r"""|"[^"]*"|“[^”]*”|``.*?''|\S*[\\{}^_=<>|+*/\d](?:\S*[^\s,.?!;:])?""",
    re.DOTALL,
)


def kept_spans(text: str) -> list[tuple[int, int]]:
    """Half-open spans of ``text`` that stay as they are."""
    return [match.span() for match in _KEPT.finditer(text)]


def is_free(text: str, start: int, end: int) -> bool:
    """Return whether no part of ``text[start:end]`` has to stay as it is."""
    return all(end <= first or start >= last for first, last in kept_spans(text))


def replace_free(text: str, pattern: re.Pattern[str], new: str | Callable[[re.Match[str]], str]) -> str:
    """Replace the matches of ``pattern`` that have no part that has to stay."""
    spans = kept_spans(text)

    def replaced(match: re.Match[str]) -> str:
        if not all(match.end() <= first or match.start() >= last for first, last in spans):
            return match[0]
        return match.expand(new) if isinstance(new, str) else new(match)

    return pattern.sub(replaced, text)

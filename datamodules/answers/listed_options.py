"""Options that a text repeats in a row, "A) 21 B) 22 C) 23": a list, and no choice."""

import re
from collections.abc import Callable, Sequence

from promptstage.datamodules.answers.options import Option

_BETWEEN = re.compile(r"[ ,;/&|]*(?:(?:and|or)\b)?[ ]*", re.IGNORECASE)
_LETTERS = 3  # "A and B" without texts may be two answers


def without_listed(text: str, options: Sequence[Option]) -> str:
    """Return ``text`` without lists that begin with the first option, on one line, in order.

    With their texts two options are a list, letters alone from three on.
    """
    if len(options) < 2:
        return text
    start = re.compile(rf"(?<![\w'.$\\-])[(\[]?{_label(options[0])}[)\].:]", re.IGNORECASE)
    letters = re.compile(rf"(?<![\w'.$\\-])[(\[]?{_label(options[0])}[)\]]?,", re.IGNORECASE)
    dash = re.compile(rf"(?<![\w'.$\\-]){_label(options[0])} - ")
    places = sorted({m.start() for pattern in (start, letters, dash) for m in pattern.finditer(text)})
    parts, done = [], 0
    for place in places:
        if place >= done and (end := _list_end(text, place, options)):
            parts.append(text[done:place])
            done = end
    return "".join([*parts, text[done:]])


def _list_end(text: str, start: int, options: Sequence[Option]) -> int | None:
    """Return the end of the list that starts here; None where none does."""
    return _run_end(text, start, options, _full, 2) or _run_end(text, start, options, _bare, _LETTERS)


def _run_end(
    text: str,
    start: int,
    options: Sequence[Option],
    pattern: Callable[[Option], re.Pattern[str]],
    least: int,
) -> int | None:
    """Return the end of the options that a pattern matches in a row; None for fewer than ``least``."""
    end, listed = start, 0
    for option in options:
        between = _BETWEEN.match(text, end) if listed else None
        match = pattern(option).match(text, between.end() if between else end)
        if match is None:
            break
        end, listed = match.end(), listed + 1
    return end if listed >= least else None


def _label(option: Option) -> str:
    return re.escape(option.letter)


def _full(option: Option) -> re.Pattern[str]:
    """Label and text, which a letter or a digit does not continue."""
    text = r"\s+".join(map(re.escape, option.text.split())) or r"(?!)"
    ending = r"(?![^\W_]*\d)(?!\.\d)" if option.text[-1:].isdigit() else r"(?![^\W\d_]{2})"
    return re.compile(
        rf"[(\[]?{_label(option)}(?:\s?[)\].:]+|\s-(?=\s))[ ]*[$*]*{text}[$*]*{ending}\.?", re.IGNORECASE
    )


def _bare(option: Option) -> re.Pattern[str]:
    return re.compile(rf"[(\[]?{_label(option)}[)\]]?(?![\w'.:)\]-])(?!\s*[=<>+])")

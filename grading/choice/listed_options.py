"""Removal of option lists such as "A) 21 B) 22 C) 23", which repeat the question and choose nothing."""

import re
from collections.abc import Callable, Sequence

from promptstage.grading.choice.options import Option

_BETWEEN = re.compile(r"[ ,;/&|]*(?:(?:and|or)\b)?[ ]*", re.IGNORECASE)
_MIN_LETTERS = 3  # "A and B" without texts may be two answers and not a list


def strip_option_lists(text: str, options: Sequence[Option]) -> str:
    """Remove lists of the options, in order and on one line, that begin with the first option.

    Two options with their texts form a list; letters alone do from three on.
    """
    if len(options) < 2:
        return text
    start = re.compile(rf"(?<![\w'.$\\-])[(\[]?{_label(options[0])}[)\].:]", re.IGNORECASE)
    letters = re.compile(rf"(?<![\w'.$\\-])[(\[]?{_label(options[0])}[)\]]?,", re.IGNORECASE)
    dash = re.compile(rf"(?<![\w'.$\\-]){_label(options[0])} - ")
    places = sorted({m.start() for pattern in (start, letters, dash) for m in pattern.finditer(text)})
    parts, position = [], 0
    for place in places:
        if place >= position and (end := _list_end(text, place, options)):
            parts.append(text[position:place])
            position = end
    return "".join([*parts, text[position:]])


def _list_end(text: str, start: int, options: Sequence[Option]) -> int | None:
    """Return the index after the list that begins at ``start``; None if there is no list."""
    return _run_end(text, start, options, _text_pattern, 2) or _run_end(
        text, start, options, _letter_pattern, _MIN_LETTERS
    )


def _run_end(
    text: str,
    start: int,
    options: Sequence[Option],
    pattern: Callable[[Option], re.Pattern[str]],
    minimum: int,
) -> int | None:
    """Return the index after consecutive options that match ``pattern``; None for fewer than ``minimum``."""
    end, count = start, 0
    for option in options:
        between = _BETWEEN.match(text, end) if count else None
        match = pattern(option).match(text, between.end() if between else end)
        if match is None:
            break
        end, count = match.end(), count + 1
    return end if count >= minimum else None


def _label(option: Option) -> str:
    return re.escape(option.letter)


def _text_pattern(option: Option) -> re.Pattern[str]:
    """Return a pattern of the option's label and text as a whole."""
    text = r"\s+".join(map(re.escape, option.text.split())) or r"(?!)"
    ending = r"(?![^\W_]*\d)(?!\.\d)" if option.text[-1:].isdigit() else r"(?![^\W\d_]{2})"
    return re.compile(
        rf"[(\[]?{_label(option)}(?:\s?[)\].:]+|\s-(?=\s))[ ]*[$*]*{text}[$*]*{ending}\.?", re.IGNORECASE
    )


def _letter_pattern(option: Option) -> re.Pattern[str]:
    """Return a pattern of the option's letter alone."""
    return re.compile(rf"[(\[]?{_label(option)}[)\]]?(?![\w'.:)\]-])(?!\s*[=<>+])")

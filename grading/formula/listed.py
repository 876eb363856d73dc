"""Solutions listed one per line: "- x = 7", "- x = 3"."""

import re
from typing import NamedTuple

from promptstage.grading.formula.plain import is_collection
from promptstage.grading.reading.answer import Answer
from promptstage.grading.reading.patterns import any_of, phrases

_RULE = "list of solutions"
_MARK = re.compile(r"\s*(?:[-*+•]|\(?\d{1,2}[.)]|\(?[a-h]\)|Case\s\w{1,2}:?)\s+")
_DELIMITERS = re.compile(r"\$|\\[()\[\]]|\*\*")
# "If x > 0, then x = 3."
_DERIVED = re.compile(r"^.*\b(?:so|then|gives|get|hence|thus),?\s+(?=[a-zA-Z]\s*=)", re.IGNORECASE)
_ITEM = re.compile(r"(?:(?P<name>[a-zA-Z](?:_\w)?)\s*=\s*)?(?P<value>[^=:]{1,60})")
# A value has no words, but may have commands and functions.
_WORDS = re.compile(r"(?<![\\a-zA-Z])(?!(?:sin|cos|tan|log|sqrt|or|and)\b)[a-zA-Z]{3,}|[a-z]\s[a-z]\b")
_SOLUTIONS = re.compile(
    rf"\b{any_of(phrases('solutions, roots, zeros, zeroes, answers, values, intercepts'))}\b[^\n]*:\W*$",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"[\d=$]")
_MAX_REMARKS = 2  # lines without numbers after the list


class _Item(NamedTuple):
    """Item of a list: its name ("" for none), its text, and whether it has a bullet or number."""

    name: str
    text: str
    is_marked: bool


def trailing_list(text: str, reference: str) -> Answer | None:
    """Return the solutions that the last lines of ``text`` list, joined by commas; None without a list.

    A list that is not announced as one of solutions counts only if the reference has several values.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    for _ in range(_MAX_REMARKS):
        if len(lines) > 1 and not _CONTENT.search(lines[-1]):
            lines.pop()
    items: list[_Item] = []
    while lines and (item := _parse_item(lines[-1])):
        items.insert(0, item)
        lines.pop()
    is_announced = bool(lines and _SOLUTIONS.search(lines[-1]))
    return _join(items, reference, is_announced)


def leading_list(text: str, reference: str) -> Answer | None:
    """Return the solutions listed at the start of ``text``, which follows "the answers are"."""
    items: list[_Item] = []
    for line in filter(str.strip, text.split("\n")):
        if (item := _parse_item(line)) is None:
            break
        items.append(item)
    return _join(items, reference, is_announced=True)


def _parse_item(line: str) -> _Item | None:
    """Parse a line that is one value, with or without bullet and name; None for any other line."""
    mark = _MARK.match(line)
    content = _DELIMITERS.sub("", line[mark.end() :] if mark else line).strip().rstrip(".,;")
    if mark:
        content = _DERIVED.sub("", content)
    match = _ITEM.fullmatch(content)
    if match is None or _WORDS.search(match["value"]):
        return None
    return _Item(match["name"] or "", content, bool(mark))


def _join(items: list[_Item], reference: str, is_announced: bool) -> Answer | None:
    """Join items that are values of one variable, or the coordinates of a point."""
    names = {item.name for item in items}
    if len(items) < 2 or ("" in names and not all(item.is_marked for item in items)):
        return None
    if len(names) > 1 and ("" in names or len(names) != len(items) or "(" not in reference):
        return None
    if not is_announced and not is_collection(reference):
        return None
    return Answer(", ".join(item.text for item in items), _RULE)

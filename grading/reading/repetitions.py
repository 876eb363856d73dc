"""Removal of a repetition that is cut off at the end of a looping generation."""

import re
from collections import Counter

_SPLIT = re.compile(r"(?<=[.!?])\s+|\n+")
_SHORTEST = 5  # characters of a repetition: "#### 1"
_WINDOW = 500  # characters at the end in which the last sentence is searched
_BOX = re.compile(r"\\f?boxed\s*\{")


def strip_cut_off_repetition(text: str) -> str:
    r"""Remove the last sentence or line of ``text`` if it is the beginning of one that was repeated before.

    A box that is cut off needs only one complete predecessor.

    >>> strip_cut_off_repetition("#### 18\n#### 18\n#### 1")
    '#### 18\n#### 18\n'
    """
    if text.endswith((".", "!", "?")):
        return text
    last = _SPLIT.split(text[-_WINDOW:])[-1].strip()
    if len(last) < _SHORTEST or text.find(last) == text.rfind(last):
        return text
    parts = map(str.strip, _SPLIT.split(text))
    longer = Counter(part for part in parts if len(part) > len(last) and part.startswith(last))
    needed = 1 if _BOX.search(last) and last.count("{") > last.count("}") else 2
    return text[: text.rindex(last)] if longer and max(longer.values()) >= needed else text

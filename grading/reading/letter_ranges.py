"""Removal of ranges of letters, which repeat the options of a question and choose none."""

import re

from promptstage.grading.reading.patterns import any_of, phrases

# "among the five options A through E", "(A) to (E)", "A-E".
_LETTER_RANGE = re.compile(
    rf"""
    (?: \b {any_of(phrases("among, amongst, from, between, of, out of, in"))} \s+ )?
    (?: the\s+ )?
    (?: {any_of(phrases("five, four, three, answer"))} \s+ )?
    (?: {any_of(phrases("options, choices, letters, answers"))} \s+ )?
    [(\[]? \b[A-E]\b [)\]]?
    \s* (?: through | to | thru | - | … | \.\.\. ) \s*
    [(\[]? [A-E]\b [)\]]? (?=[\s,.:;]|$)
    """,
    re.VERBOSE,
)


def strip_letter_ranges(text: str) -> str:
    """Remove ranges of letters such as "among A through E" from ``text``."""
    return _LETTER_RANGE.sub(" ", text)

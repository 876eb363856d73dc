"""Answers found by a regular expression of the user: the kinds ``regex:PATTERN``.

Patterns and generations may be untrusted. The package regex, unlike ``re``, matches with a deadline; patterns
that could take unbounded time or memory to compile, or recurse, are rejected.
"""

import re
from functools import lru_cache
from math import prod
from typing import Any

import regex

from promptstage.grading.grades import NO_ANSWER, Grade, grade_answer
from promptstage.grading.kind import AnswerKind
from promptstage.grading.reading.answer import Answer
from promptstage.utilities.errors import UserError

PREFIX = "regex:"
TIMEOUT = 0.5  # CPU seconds of the process for a generation
MAX_LENGTH = 1_000  # characters of a pattern
MAX_REPEATS = 1_000_000  # product of all {n}: nested repeats are unrolled when they are compiled
_REPEAT = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_RECURSION = re.compile(r"\(\?(?:R|[+-]?\d|&|P>)")


@lru_cache(maxsize=64)
def regex_kind(pattern: str) -> AnswerKind:
    """Return the kind of answer that a regular expression finds: its last match in the generation.

    The answer is the first group that takes part in the match, or the whole match if there is none.

    Raises:
        UserError: if the pattern is not valid, or too large.
    """
    compiled = _compile(pattern)

    def grade(text: str, reference: str, options: Any) -> Grade:
        try:
            match = _last_match(compiled, text)
        except (TimeoutError, MemoryError):
            return Grade(None, False, "no answer: pattern took too long")
        if match is None:
            return Grade(None, False, NO_ANSWER)
        groups = [group for group in match.groups() if group is not None]
        answer = Answer((groups[0] if groups else match[0]).strip(), "last match")
        expected = reference.strip().casefold()
        return grade_answer(answer, reference, lambda text: text.casefold() == expected)

    return AnswerKind(f"{PREFIX}{pattern}", grade)


def _last_match(compiled: Any, text: str) -> Any:
    last = None
    for match in compiled.finditer(text, timeout=TIMEOUT):
        last = match
    return last


def _compile(pattern: str) -> Any:
    if not pattern:
        raise UserError("regex: must be followed by a pattern, such as regex:Answer: (.+)")
    if len(pattern) > MAX_LENGTH:
        raise UserError(f"pattern must have <= {MAX_LENGTH} characters, got {len(pattern)}")
    repeats = prod(max(1, *map(_count, match.groups())) for match in _REPEAT.finditer(pattern))
    if repeats > MAX_REPEATS:
        raise UserError(f"repeats of a pattern must multiply to <= {MAX_REPEATS:,}, got {pattern!r:.60}")
    if _RECURSION.search(pattern):
        raise UserError(f"pattern must not call itself or a group, got {pattern!r:.60}")
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        raise UserError(f"pattern {pattern!r:.60} is not valid: {error}") from error


def _count(digits: str | None) -> int:
    return min(int(digits[:9]), MAX_REPEATS + 1) if digits else 1

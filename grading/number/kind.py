"""Numbers as a kind of answer: correct if the values are exactly equal."""

from fractions import Fraction
from typing import Any

from promptstage.grading.grades import Grade, grade_answer
from promptstage.grading.kind import AnswerKind
from promptstage.grading.number.answers import find_number
from promptstage.grading.number.numbers import reference_value, to_fraction
from promptstage.grading.reading.generation import normalize_generation


def _grade(text: str, reference: str, options: Any) -> Grade:
    expected = _reference_number(reference)
    return grade_answer(
        find_number(text), reference, lambda answer: expected is not None and to_fraction(answer) == expected
    )


def _problem(reference: str, options: Any) -> str:
    if _reference_number(reference) is None:
        return f"the answer must be a number, such as 72, got {reference!r:.60}"
    return ""


def _reference_number(reference: str) -> Fraction | None:
    """Return the exact value of a numeric reference, with or without ``####``; None if it is not a number."""
    return reference_value(normalize_generation(reference).rpartition("####")[2])


NUMBER = AnswerKind("number", _grade, _problem)

"""Numbers as a kind of answer: correct if the values are exactly equal."""

from fractions import Fraction
from functools import lru_cache
from typing import Any

from promptstage.grading.grades import Grade, grade_answer
from promptstage.grading.kind import AnswerKind
from promptstage.grading.number.answers import find_number
from promptstage.grading.number.numbers import NUMBER as NUMBER_PATTERN
from promptstage.grading.number.numbers import normalize_numbers, reference_value, to_fraction
from promptstage.grading.number.quantities import same_quantity, unit_after
from promptstage.grading.reading.generation import normalize_generation


def _grade(text: str, reference: str, options: Any) -> Grade:
    expected, unit = _reference_number(reference), _reference_unit(reference)
    answer = find_number(text)

    def is_equal(number: str) -> bool:
        value = to_fraction(number)
        if value is None or expected is None or answer is None:
            return False
        return same_quantity(value, answer.unit, expected, unit)

    return grade_answer(answer, reference, is_equal)


def _problem(reference: str, options: Any) -> str:
    if _reference_number(reference) is None:
        return f"must be a number, such as 72, got {reference!r:.60}"
    return ""


@lru_cache(1024)  # of data sets with many rows, few references differ
def _reference_number(reference: str) -> Fraction | None:
    """Return the exact value of a numeric reference, with or without ``####``; None if it is not a number."""
    return reference_value(normalize_generation(reference).rpartition("####")[2])


def _reference_unit(reference: str) -> str:
    """Return the convertible unit of a numeric reference; "" without one."""
    text = normalize_numbers(normalize_generation(reference).rpartition("####")[2])
    number = NUMBER_PATTERN.search(text)
    return unit_after(text, number.end()) if number else ""


NUMBER = AnswerKind("number", _grade, _problem)

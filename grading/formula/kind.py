"""Formulas as a kind of answer: correct if they are mathematically equal."""

from typing import Any

from promptstage.grading.formula.answers import find_formula, joined_boxes
from promptstage.grading.formula.budget import Budget
from promptstage.grading.formula.equivalence import same_formula
from promptstage.grading.formula.normalize import normalize_formula
from promptstage.grading.grades import Grade, grade_answer
from promptstage.grading.kind import AnswerKind
from promptstage.grading.reading.boxes import last_boxed

TIMEOUT = 1.5  # CPU seconds for the comparisons of a grade


def _grade(text: str, reference: str, options: Any) -> Grade:
    return grade_answer(
        find_formula(text, reference), reference, lambda answer: _same_formula(answer, reference, text)
    )


def _problem(reference: str, options: Any) -> str:
    if reference and not normalize_formula(reference):
        return f"must be a formula, a number or words, got {reference!r:.60}"
    return ""


def _same_formula(answer: str, reference: str, text: str) -> bool | None:
    if "\\boxed" in reference or "\\fbox" in reference:
        reference = last_boxed(reference) or reference
    budget = Budget(TIMEOUT)
    is_equal = same_formula(answer, reference, budget)
    # "x = \boxed{2} or x = \boxed{3}" gives both.
    if is_equal or not (together := joined_boxes(text)):
        return is_equal
    return same_formula(together, reference, budget)


FORMULA = AnswerKind("formula", _grade, _problem)

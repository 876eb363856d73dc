"""Words as a kind of answer: correct if they are equal up to case and spacing."""

from typing import Any

from promptstage.grading.grades import Grade, grade_answer
from promptstage.grading.kind import AnswerKind
from promptstage.grading.text.answers import WORD, find_text
from promptstage.grading.text.phrases import find_phrase


def _grade(text: str, reference: str, options: Any) -> Grade:
    expected = _simplify(reference)
    is_word = not expected or WORD.fullmatch(expected)
    answer = find_text(text) if is_word else find_phrase(text, reference)
    return grade_answer(answer, reference, lambda answer: _simplify(answer) == expected)


def _problem(reference: str, options: Any) -> str:
    return "" if reference.strip() else f"must be words, got {reference!r}"


def _simplify(text: str) -> str:
    return " ".join(text.casefold().split())


TEXT = AnswerKind("text", _grade, _problem)

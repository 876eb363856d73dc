"""Options of a multiple-choice question as a kind of answer: correct if it is the same option."""

from typing import Any

from promptstage.grading.choice.answers import find_choice
from promptstage.grading.choice.options import letter_of_reference, parse_options
from promptstage.grading.grades import Grade, grade_answer
from promptstage.grading.kind import AnswerKind


def _grade(text: str, reference: str, options: Any) -> Grade:
    choices = parse_options(options)
    expected = letter_of_reference(reference, choices)
    return grade_answer(find_choice(text, choices), reference, lambda answer: answer == expected)


def _problem(reference: str, options: Any) -> str:
    if not options:
        return ""
    choices = parse_options(options)
    if letter_of_reference(reference, choices) in [option.letter for option in choices]:
        return ""
    labels = ", ".join(option.label for option in choices)
    return f"the answer must name one option by label or text (labels: {labels}), got {reference!r:.60}"


CHOICE = AnswerKind("choice", _grade, _problem)

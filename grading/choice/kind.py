"""Options of a multiple-choice question as a kind of answer: correct if it is the same option."""

from typing import Any

from promptstage.grading.choice.amounts import amount_of
from promptstage.grading.choice.answers import find_choice
from promptstage.grading.choice.options import Option, letter_of_reference, parse_options, simplify
from promptstage.grading.choice.truth import TRUTH_NAMES, truth_options
from promptstage.grading.grades import Grade, grade_answer
from promptstage.grading.kind import AnswerKind


def _grade(text: str, reference: str, options: Any) -> Grade:
    choices = _numbered(parse_options(options), reference, options)
    expected = _expected_letter(reference, choices)
    return grade_answer(find_choice(text, choices), reference, lambda answer: answer == expected)


def _problem(reference: str, options: Any) -> str:
    choices = _numbered(parse_options(options), reference, options)
    if _expected_letter(reference, choices) in [option.letter for option in choices]:
        return ""
    labels = ", ".join(option.label for option in choices)
    return f"must name one option by label or text (labels: {labels}), got {reference!r:.60}"


def _expected_letter(reference: str, choices: list[Option]) -> str | None:
    """Return the letter of the option that a reference names; true and false also name yes and no."""
    by_value = truth_options(choices)
    if by_value and (value := TRUTH_NAMES.get(simplify(reference))) is not None:
        return by_value[value].letter
    return letter_of_reference(reference, choices)


def _numbered(choices: list[Option], reference: str, options: Any) -> list[Option]:
    """Label options that are plain texts by 1, 2, … if the reference is such a number and no option's value.

    Some rows of ARC have these labels.
    """
    number, texts = reference.strip().strip("().: "), [choice.text for choice in choices]
    if not isinstance(options, list | tuple) or texts != [str(text).strip() for text in options]:
        return choices
    labels = [str(i) for i in range(1, len(choices) + 1)]
    if number not in labels or any((own := amount_of(text)) and own.value == int(number) for text in texts):
        return choices
    return [choice._replace(label=label) for choice, label in zip(choices, labels, strict=True)]


CHOICE = AnswerKind("choice", _grade, _problem)

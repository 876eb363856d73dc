"""Grades, and the grade of an extracted answer."""

from collections.abc import Callable
from dataclasses import dataclass

from promptstage.grading.reading.answer import Answer

NO_ANSWER = "no answer found"

LABEL_WORD = "label word"  # reason of a predicted label word, which is not extracted from a text


@dataclass(frozen=True)
class Grade:
    """Grade of one generation.

    Attributes:
        prediction: the final answer as the model wrote it (the letter of an option); None without one.
        correct: whether the answer equals the reference.
        reason: the rule that found the answer, or the reason why there is none.
    """

    prediction: str | None
    correct: bool
    reason: str


def grade_answer(answer: Answer | None, reference: str, is_equal: Callable[[str], bool | None]) -> Grade:
    """Grade an extracted answer; ambiguous answers are incorrect.

    Args:
        is_equal: compares the answer's text with the reference; None if that takes too long.
    """
    if answer is None or not (answer.text or not reference):
        return Grade(None, False, NO_ANSWER)
    if answer.ambiguous:
        return Grade(answer.text, False, f"{answer.rule}: two answers named")
    correct = is_equal(answer.text)
    if correct is None:
        return Grade(answer.text, False, f"{answer.rule}: comparison took too long")
    return Grade(answer.text, correct, answer.rule)


def coverage(graded: int, questions: int) -> str:
    """Describe how many of the questions were graded; "" if all were.

    >>> coverage(4, 6)
    '4 of 6 questions'
    """
    return f"{graded} of {questions} questions" if graded < questions else ""

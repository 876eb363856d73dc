"""Kind of answer: its name, the function that grades it, and the check of its references."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from promptstage.grading.grades import Grade


def accept_reference(reference: str, options: Any) -> str:
    """Return "": an answer can equal any reference."""
    return ""


@dataclass(frozen=True)
class AnswerKind:
    """Kind of answer.

    Attributes:
        name: name of the kind in ``grade`` and in records.
        grade: grades a normalized generation, given the reference and the options of the question.
        problem: returns why no answer can equal a reference, given the options, in words that follow the name
            of the argument ("must be a number, …"); "" if one can.
    """

    name: str
    grade: Callable[[str, str, Any], Grade]
    problem: Callable[[str, Any], str] = accept_reference

"""One question of a data set, as text."""

from typing import NamedTuple


class Example(NamedTuple):
    """One question. (A named tuple: Lightning refuses frozen dataclasses inside a batch.)

    Attributes:
        id: stable name, such as ``gsm8k/train/123``.
        question: text for the template, answer options included.
        rationale: the worked steps; empty for a data set without them.
        answer: the reference for the grader.
        completion: the target text after the prompt, without leading space and end token.
        options: texts of the answer options of a multiple-choice question, in order.
        dataset: name of the data set in records; None: that of the batch.
        kind: kind of answer, for the grader; None: that of the batch.
    """

    id: str
    question: str
    rationale: str
    answer: str
    completion: str
    options: tuple[str, ...] | None = None
    dataset: str | None = None
    kind: str | None = None


def worked_answer(rationale: str, answer: str) -> str:
    """Join the rationale, if any, and the answer into a completion.

    >>> worked_answer("", "5")
    '#### 5'
    """
    return f"{rationale}\n#### {answer}" if rationale else f"#### {answer}"

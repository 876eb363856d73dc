"""Multiple-choice questions: options become A, B, C, … in order, whatever the source calls them."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from promptstage.datamodules.encoding import Example, worked_answer
from promptstage.datamodules.sources import MalformedRow, list_names, object_field, text_field, texts_field

LETTERS = "ABCDEFGH"
SHOWN = "\nAnswer choices: "  # between a question and its options
PREFIX = re.compile(rf"(?:\s*[{LETTERS}]\s*\))+")  # AQuA has some twice: "A)A)59"


class Choices(NamedTuple):
    """The options of a question in order: their texts, and their labels in the source."""

    texts: list[str]
    labels: list[str]


def lettered_choices(row: Mapping[str, Any]) -> Choices:
    """The choices of a field ``options``: texts that begin with their letter, such as ``"A)21"``.

    Raises:
        MalformedRow: when there is no such list, or an option is not of this form.
    """
    texts, labels = [], []
    for option in texts_field(row, "options"):
        match = PREFIX.match(option)
        text = option[match.end() :].strip() if match else ""
        if not text:
            raise MalformedRow(
                f"field 'options' has {option!r:.60}: expected a letter and a text, such as 'A) 21'"
            )
        texts.append(text)
        labels.append(option[0])
    return Choices(texts, labels)


def labelled_choices(row: Mapping[str, Any]) -> Choices:
    """The choices of a field ``choices``: a list ``text``, and beside it a list ``label``.

    Raises:
        MalformedRow: when one is missing, or they are not of the same length.
    """
    choices = object_field(row, "choices")
    texts, labels = texts_field(choices, "choices.text"), texts_field(choices, "choices.label")
    if len(texts) != len(labels):
        raise MalformedRow(
            f"field 'choices' has {len(texts)} texts and {len(labels)} labels: expected as many of each"
        )
    return Choices(texts, labels)


def choice_example(
    id: str, question: str, choices: Choices, key: str, row: Mapping[str, Any], rationale: str = ""
) -> Example:
    """A multiple-choice question with its options shown, answered by a letter.

    Args:
        key: field of ``row`` with the source's label of the right option.
        rationale: worked steps, if there are any.

    Raises:
        MalformedRow: when ``key`` names no option, or there are too few or too many.
    """
    if not 2 <= len(choices.texts) <= len(LETTERS):
        raise MalformedRow(f"the number of options is {len(choices.texts)}: expected 2 to {len(LETTERS)}")
    label = text_field(row, key)
    if choices.labels.count(label) != 1:
        raise MalformedRow(f"field '{key}' is {label!r:.60}: expected one of {list_names(choices.labels)}")
    answer = LETTERS[choices.labels.index(label)]
    shown = " ".join(f"{letter}) {text}" for letter, text in zip(LETTERS, choices.texts, strict=False))
    return Example(
        id=id,
        question=f"{question}{SHOWN}{shown}",
        rationale=rationale,
        answer=answer,
        completion=worked_answer(rationale, answer),
        options=tuple(choices.texts),
    )

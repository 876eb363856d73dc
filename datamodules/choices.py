"""Multiple-choice questions, with options relabeled A, B, C, … in order."""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from promptstage.datamodules.encoding import Example, worked_answer
from promptstage.datamodules.field_texts import value_text
from promptstage.datamodules.sources import (
    MalformedRow,
    list_names,
    numbered,
    object_field,
    text_field,
    texts_field,
)
from promptstage.grading.choice.options import Option, letter_of_reference, simplify

LETTERS = "ABCDEFGHIJ"  # that the grader tells from other words: K, V and X are variables and numerals
OPTIONS_HEADER = "\nAnswer choices: "  # between a question and its options
PREFIX = re.compile(rf"(?:\s*[{LETTERS}]\s*\))+")  # some letters of AQuA-RAT are repeated: "A)A)59"


class Choices(NamedTuple):
    """Options of a question in order: their texts, and their labels in the data set."""

    texts: list[str]
    labels: list[str]


def lettered_choices(row: Mapping[str, Any]) -> Choices:
    """Return the options in field ``options``, a list of texts that begin with a letter.

    Raises:
        MalformedRow: if the field is missing, or an option has another form.

    >>> lettered_choices({"options": ["A)21", "B) 22"]})
    Choices(texts=['21', '22'], labels=['A', 'B'])
    """
    texts, labels = [], []
    for option in texts_field(row, "options"):
        match = PREFIX.match(option)
        text = option[match.end() :].strip() if match else ""
        if not text:
            raise MalformedRow(
                f"field 'options' must hold letters with texts, such as 'A) 21', got {option!r:.60}"
            )
        texts.append(text)
        labels.append(option[0])
    return Choices(texts, labels)


def labeled_choices(row: Mapping[str, Any]) -> Choices:
    """Return the options in field ``choices``, which holds the lists ``text`` and ``label``.

    Raises:
        MalformedRow: if a list is missing, or the two differ in length.

    >>> labeled_choices({"choices": {"text": ["iron", "copper"], "label": ["1", "2"]}})
    Choices(texts=['iron', 'copper'], labels=['1', '2'])
    """
    choices = object_field(row, "choices")
    texts, labels = texts_field(choices, "choices.text"), texts_field(choices, "choices.label")
    return _paired("choices", texts, labels)


def own_choices(values: Any, name: str) -> Choices:
    """Return the options in a field: a list of texts, which gives no labels, or texts with labels.

    Args:
        values: the field; labels come from an object with the lists ``text`` and ``label``, or a list of
            objects with ``text`` and ``label``.
        name: its name, for messages.

    Raises:
        MalformedRow: if the field has another form, or a text or label is empty, or a label is repeated.

    >>> own_choices([3.0, "four"], "options")
    Choices(texts=['3', 'four'], labels=[])
    """
    texts, labels = values, None
    if isinstance(values, Mapping):
        texts, labels = values.get("text"), values.get("label", ())
    elif isinstance(values, list) and values and all(isinstance(value, Mapping) for value in values):
        texts, labels = ([value.get(key) for value in values] for key in ("text", "label"))
    if not isinstance(texts, list) or not texts or not isinstance(labels, list | None):
        raise MalformedRow(
            f"the options must be a list of texts, or an object with the lists text and label, got "
            f"{values!r:.60}"
        )
    texts = [value_text(value, field) for field, value in numbered(name, texts).items()]
    if labels is None:
        return Choices(texts, [])
    labels = [value_text(value, field) for field, value in numbered(f"{name}.label", labels).items()]
    if len(set(labels)) < len(labels):
        raise MalformedRow(f"field '{name}' must have different labels, got {list_names(labels)}")
    return _paired(name, texts, labels)


def _paired(name: str, texts: list[str], labels: list[str]) -> Choices:
    if len(texts) != len(labels):
        raise MalformedRow(
            f"field '{name}' must have as many texts as labels, got {len(texts)} and {len(labels)}"
        )
    return Choices(texts, labels)


def choice_example(
    id: str, question: str, choices: Choices, key: str, row: Mapping[str, Any], rationale: str = ""
) -> Example:
    """Build the example of a multiple-choice question; options follow the question, the answer is a letter.

    Args:
        id: the example's id.
        question: the question without options.
        choices: the options.
        key: field of ``row`` with the label of the correct option.
        row: the row.
        rationale: worked steps; "" if there are none.

    Raises:
        MalformedRow: if there are not 2 to 10 options, or ``key`` does not name exactly one of them.
    """
    check_count(choices.texts)
    label = text_field(row, key)
    if choices.labels.count(label) != 1:
        raise MalformedRow(f"field '{key}' must be one of {list_names(choices.labels)}, got {label!r:.60}")
    letter = ascii_uppercase[choices.labels.index(label)]
    return lettered_example(id, question, choices.texts, letter, rationale)


def check_count(texts: Sequence[str]) -> None:
    """
    Raises:
        MalformedRow: if there are not 2 to 10 options.
    """
    if not 2 <= len(texts) <= len(LETTERS):
        raise MalformedRow(f"the number of options must be 2 to {len(LETTERS)}, got {len(texts)}")


def lettered_example(id: str, question: str, texts: Sequence[str], letter: str, rationale: str) -> Example:
    """Build the example of a multiple-choice question from its options and the letter of the correct one.

    Raises:
        MalformedRow: if there are not 2 to 10 options.
    """
    check_count(texts)
    shown = " ".join(f"{name}) {text}" for name, text in zip(LETTERS, texts, strict=False))
    return Example(
        id=id,
        question=f"{question}{OPTIONS_HEADER}{shown}",
        rationale=rationale,
        answer=letter,
        completion=worked_answer(rationale, letter),
        options=tuple(texts),
    )


MEANINGS = {"true": ("yes", "true"), "false": ("no", "false")}


def letter_of_answer(value: Any, options: Sequence[Option], labeled: bool, field: str) -> str:
    """Return the letter of the option that an answer names by letter, label, text or index.

    Args:
        labeled: the options have labels of their own, which take precedence over their texts.
        field: name of the answer's field, for messages.

    Raises:
        MalformedRow: if it names none, or could name two.
    """
    text = value_text(value, field)
    named = letter_of_reference(text, options)
    letters = [option.letter for option in options]
    if named not in letters:
        meanings = MEANINGS.get(text.casefold(), ())
        named = next((option.letter for option in options if option.text.casefold() in meanings), None)
    counted = None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        counted = letters[value]
    own_labels = any(option.label != option.letter for option in options)
    if named and counted and named != counted and not own_labels:
        raise MalformedRow(
            f"field '{field}' is {value}, the text of option {named} and the index of option {counted}: "
            "write a letter or a text"
        )
    same = [option.letter for option in options if simplify(option.text) == simplify(text)]
    if named and same and named not in same and not labeled:
        raise MalformedRow(
            f"field '{field}' is {text!r:.60}, the letter of option {named} and the text of option "
            f"{same[0]}: give options as an object with the lists text and label"
        )
    letter = named or counted
    if letter is None and len(same) > 1:
        raise MalformedRow(
            f"field '{field}' is {text!r:.60}, the text of options {' and '.join(same)}, which must differ: "
            "write a letter"
        )
    if letter is None:
        allowed = list_names(option.text or option.label for option in options)
        raise MalformedRow(
            f"field '{field}' must be one of the options ({allowed}), a letter, or an index from 0 "
            f"(an integer in JSON or Parquet), got {value!r:.60}"
        )
    return letter

"""Fields of a user's rows that would give another text than the one meant are rejected."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import promptstage as ps
from promptstage.datamodules.encoding import Example
from promptstage.datamodules.field_texts import value_text
from promptstage.utilities.errors import UserError

CHOICE = {"answer_kind": "choice", "options": "o"}


def first(folder: Path, row: dict[str, Any], **options: Any) -> Example:
    """Return the first training example of a file of equal rows."""
    path = folder / "rows.jsonl"
    path.write_text((json.dumps(row) + "\n") * 20, encoding="utf-8")
    given = {"question": "q", "answer": "a", "answer_kind": "text"} | options
    return ps.Custom(source=str(path), **given).examples("train")[0]


@pytest.mark.parametrize("option", ["question", "answer", "rationale", "completion"])
def test_a_text_without_a_field_is_the_same_for_every_row(option: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{option} must name a field, such as {{problem}}, got '{{{{q}}}}'"):
        first(tmp_path, {"q": "?", "a": "x"}, **{option: "{{q}}"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("NaN")])
def test_missing_numbers_are_no_text(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a non-empty text or a number"):
        value_text(value, "a")


def test_decimals_are_numbers() -> None:
    assert [value_text(Decimal(text), "a") for text in ("3.50", "100", "1E+3")] == ["3.5", "100", "1000"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x", None], r"field 'o\[1\]' is None: expected a non-empty text"),
        (["x", ""], r"field 'o\[1\]' is ''"),
        (["x", ["y"]], r"field 'o\[1\]' is \['y'\]"),
        (["x", {"a": 1}], r"field 'o\[1\]' is {'a': 1}"),
        ({"text": ["x", "y", "z"], "label": ["1", "2"]}, "as many texts as labels, got 3 and 2"),
        ({"text": ["x", "y"], "label": ["1", "1"]}, "must have different labels, got 1, 1"),
        ({"text": ["x", "y"]}, "an object with the lists text and label"),
        ([{"text": "x", "label": "1"}, {"text": "y"}], r"field 'o.label\[1\]' is None"),
    ],
)
def test_options_that_are_no_texts(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        first(tmp_path, {"q": "?", "a": "x", "o": options}, **CHOICE)


def test_an_answer_that_is_a_letter_and_a_text(tmp_path: Path) -> None:
    message = "field 'a' is 'A', the letter of option A and the text of option C"
    with pytest.raises(UserError, match=message):
        first(tmp_path, {"q": "?", "a": "A", "o": ["B", "C", "A"]}, **CHOICE)
    assert first(tmp_path, {"q": "?", "a": "A", "o": ["A", "B", "AB"]}, **CHOICE).answer == "A"
    labeled = {"text": ["B", "C", "A"], "label": ["A", "B", "C"]}
    assert first(tmp_path, {"q": "?", "a": "A", "o": labeled}, **CHOICE).answer == "A"


def test_a_test_on_training_questions_is_reported(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"q": "?", "a": "x"}\n' * 20, encoding="utf-8")
    options = {"source": str(tmp_path), "question": "q", "answer": "a", "answer_kind": "text", "name": "own"}
    data = ps.Custom(**options, test_split="train")
    assert data.overlap == "own: test_split and train_split are the same, 'train'"
    assert not ps.Custom(**options).overlap


def test_names_have_no_control_characters(tmp_path: Path) -> None:
    """They are part of ids, which are printed."""
    source = tmp_path / "a\x1b[2J.jsonl"
    source.write_text('{"q": "?", "a": "x"}\n' * 20, encoding="utf-8")
    options = {"source": str(source), "question": "q", "answer": "a", "answer_kind": "text"}
    assert ps.Custom(**options).name == r"a\x1b[2J"
    for name in ("a\x1b[2J", "a\n", ""):
        with pytest.raises(UserError, match="name must be a text without control characters, got"):
            ps.Custom(**options, name=name)

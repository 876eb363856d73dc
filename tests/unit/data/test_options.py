"""Questions with up to ten options: read, lettered, and graded, where I is a letter and a word."""

import json
from pathlib import Path

import pytest

import promptstage as ps
from promptstage.datamodules.choices import LETTERS
from promptstage.grading import grade
from promptstage.utilities.errors import UserError

WORDS = ("lamp", "table", "river", "stone", "cloud", "green", "mouse", "paper", "sugar", "horse")


@pytest.mark.parametrize("count", [2, 9, 10])
def test_each_option_can_be_the_answer(count: int, tmp_path: Path) -> None:
    rows = [{"q": f"Which {i}?", "o": WORDS[:count], "a": i % count} for i in range(60)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = ps.Custom(source=str(source), question="q", answer="a", answer_kind="choice", options="o")
    examples = data.examples("train")
    assert {example.answer for example in examples} == set(LETTERS[:count])
    assert all(f"{LETTERS[count - 1]}) {WORDS[count - 1]}" in example.question for example in examples)


def test_more_options_are_rejected(tmp_path: Path) -> None:
    row = {"q": "Which?", "o": [*WORDS, "eleven"], "a": "A"}
    source = tmp_path / "rows.jsonl"
    source.write_text((json.dumps(row) + "\n") * 20, encoding="utf-8")
    data = ps.Custom(source=str(source), question="q", answer="a", answer_kind="choice", options="o")
    with pytest.raises(UserError, match="the number of options must be 2 to 10, got 11"):
        data.examples("train")


@pytest.mark.parametrize("options", [WORDS, tuple(str(number) for number in range(11, 21))])
@pytest.mark.parametrize(
    ("generation", "letter"),
    [
        ("The answer is I.", "I"),
        ("The answer is (J).", "J"),
        ("#### I", "I"),
        ("I", "I"),
        ("I, because it is sweet.", "I"),
        ("So I would pick option I.", "I"),
        ("Therefore, I select (J).", "J"),
        ("among A through J, the answer is C", "C"),
        ("I think the answer is B.", "B"),
        ("The answer is I think B.", "B"),
        ("Answer: I'm going with C", "C"),
        ("It must be A, I guess.", "A"),
        ("The answer is E, and I checked it.", "E"),
        ("Therefore, the answer is B.\n\nI hope this helps. I am happy to help.", "B"),
        ("I don't know", None),
        ("I cannot determine the answer.", None),
        ("The final answer is I have no idea", None),
        ("#### I hope", None),
    ],
)
def test_the_letter_i_is_told_from_the_word(
    generation: str, letter: str | None, options: tuple[str, ...]
) -> None:
    assert grade("choice", generation, "B", options).prediction == letter

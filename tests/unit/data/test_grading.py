"""Answers as models write them."""

import time

import pytest

from datamodules.answers import last_boxed
from datamodules.grading import Grade, grade
from utilities.errors import UserError


@pytest.mark.parametrize(
    ("generation", "reference", "prediction", "correct", "reason"),
    [
        ("48/2=24.\n#### 72", "72", "72", True, "after ####"),
        ("#### $1,234.50 dollars", "1234.5", "$1,234.50", True, "after ####"),
        ("#### 72.00", "72", "72.00", True, "after ####"),
        ("#### -3", "-3", "-3", True, "after ####"),
        ("#### -$3", "-3", "-$3", True, "after ####"),
        ("#### 50%", "50", "50", True, "after ####"),
        ("#### 1/2", "0.5", "1/2", True, "after ####"),
        ("#### 72\n#### 73", "72", "72", True, "after ####"),
        ("#### Step 1\nSo 5.\n#### 7", "7", "7", True, "after ####"),
        ("#### **42**", "42", "42", True, "after ####"),
        ("The answer is $72.", "72", "$72", True, "after 'answer is'"),
        ("The answer is 5. No: the answer is 6 apples.", "6", "6", True, "after 'answer is'"),
        (r"so \boxed{1{,}000}", "1", "1", True, "boxed"),
        (r"so \boxed{72\%}. The answer is 3", "72", "72", True, "boxed"),
        ("He has 48-24=24 left.", "24", "24", True, "last number"),
        ("In all:\n- 24 apples", "24", "24", True, "last number"),
        ("It is 48-24", "24", "24", True, "last number"),
        ("#### 72\nQuestion: And 5?\nAnswer: 9\n#### 9", "72", "72", True, "after ####"),
        ("I do not know.\nQ: 1+1?\n#### 2", "2", None, False, "no answer found"),
        ("#### 1/0", "0", "1/0", False, "after ####"),
        ("", "2", None, False, "no answer found"),
        ("#### 71", "72", "71", False, "after ####"),
        ("#### 0.1", "0.10000000000000000001", "0.1", False, "after ####"),
    ],
)
def test_numbers(generation: str, reference: str, prediction: str | None, correct: bool, reason: str) -> None:
    assert grade("gsm8k", generation, reference) == Grade(prediction, correct, reason)


@pytest.mark.parametrize(
    ("generation", "prediction", "reason"),
    [
        ("2A = 4 so\n#### B", "B", "after ####"),
        ("#### (C) 992", "C", "after ####"),
        ("Answer : A\n#### D", "D", "after ####"),
        ("Therefore the answer is (E).", "E", "after 'answer is'"),
        ("Answer: option C", "C", "after 'answer is'"),
        ("The answer is A car.\nB", "B", "letter alone on a line"),
        ("The answer is A because it is.", "A", "after 'answer is'"),
        (r"\boxed{\text{(D)}}", "D", "boxed"),
        (" B) 992", "B", "letter at the start"),
        ("A man walks to B.", None, "no answer found"),
        ("#### F", None, "no answer found"),
        ("C\nQuestion: x\nAnswer choices: A) 1\n#### A", "C", "letter alone on a line"),
    ],
)
def test_letters(generation: str, prediction: str | None, reason: str) -> None:
    assert grade("aqua_rat", generation, "B") == Grade(prediction, prediction == "B", reason)


def test_letters_that_the_question_does_not_have() -> None:
    assert grade("prontoqa", "#### C", "A", ("True", "False")).prediction is None
    assert grade("prontoqa", "#### B", "B", ("True", "False")).correct


@pytest.mark.parametrize(
    ("generation", "reference", "correct"),
    [
        (r"$\boxed{\frac12}$", r"\frac{1}{2}", True),
        (r"\boxed{\dfrac{1}{2}}", "0.5", True),
        (r"\boxed{1} and \boxed{ \left( 3, \frac{\pi}{2} \right) }", r"(3,\frac{\pi}{2})", True),
        (r"\boxed{x^2+2x+1}", r"(x+1)^2", True),
        (r"\boxed{90^\circ}", "90", True),
        (r"\boxed{\text{east}}", "east", True),
        (r"\boxed{10,000}", "10000", True),
        ("The answer is $2$.", "2", True),
        ("#### 2", "2", True),
        (r"\boxed{2", "2", False),
        (r"\boxed{3}", "2", False),
        (r"\boxed{}", "2", False),
        ("2", "2", False),
    ],
)
def test_formulas(generation: str, reference: str, correct: bool) -> None:
    assert grade("math", generation, reference).correct is correct


def test_texts() -> None:
    assert grade("letter_reversal", "t,a,c\n#### tac \nmore", "tac") == Grade("tac", True, "after ####")
    assert grade("last_letter", "so\n tac\n", "tac") == Grade("tac", True, "last line")
    assert grade("last_letter", "#### Tac", "tac") == Grade("Tac", False, "after ####")
    assert grade("last_letter", "####", "tac") == Grade(None, False, "no answer found")


def test_boxes() -> None:
    assert last_boxed(r"\boxed{a{b{c}}} x") == "a{b{c}}"
    assert last_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed(r"\boxed{\left\{ x \right.}") == r"\left\{ x \right."
    assert last_boxed(r"$\boxed 2$.") == "2"
    assert last_boxed("none") is None


HOSTILE = {
    "digits": "#### " + "9" * 1_000_000,
    "groups": "1" + ",111" * 300_000 + "1",
    "braces": r"\boxed{" * 200_000,
    "deep": r"\boxed{" + "{" * 300_000 + "}" * 300_000 + "}",
    "marks": "####" * 250_000,
    "stars": "#### " + "*(" * 300_000,
    "spaces": "answer is" + " " * 1_000_000,
    "lines": "\n " * 400_000,
    "tower": r"\boxed{9^{9^{9^{9}}}}",
    "chain": r"\boxed{((((9^{99})^{99})^{99})^{99})^{99}}",
    "factorial": r"\boxed{99999999!!}",
    "sum": r"\boxed{\sum_{i=1}^{10^9} i^i}",
}


@pytest.mark.parametrize("dataset", ["gsm8k", "aqua_rat", "math", "last_letter"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_generations_are_quick(dataset: str, kind: str) -> None:
    start = time.perf_counter()
    assert not grade(dataset, HOSTILE[kind], "7").correct
    assert time.perf_counter() - start < 3


def test_unknown_data_set() -> None:
    with pytest.raises(UserError, match="data set 'gms8k' is unknown: did you mean 'gsm8k'"):
        grade("gms8k", "1", "1")

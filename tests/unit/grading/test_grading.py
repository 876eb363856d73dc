"""Tests of the answers that the grader extracts, and of the reasons it gives."""

from typing import Any

import pytest

from promptstage.grading import Grade, grade
from promptstage.grading.reading.boxes import last_boxed
from promptstage.utilities.errors import UserError

AQUA = ["A)A)59", "B)6", "C)36", "D)60", "E)None of these"]
ARC = {"text": ["iron", "cast iron", "copper"], "label": ["1", "2", "3"]}
TRUTH = ["A) True", "B) False"]


@pytest.mark.parametrize(
    ("generation", "reference", "expected"),
    [
        ("48/2=24.\n#### 72", "72", Grade("72", True, "after ####")),
        ("#### $1,234.50 dollars", "1234.5", Grade("$1,234.50", True, "after ####")),
        ("#### 2,125", "2,125", Grade("2,125", True, "after ####")),
        ("#### -$3", "-3", Grade("-$3", True, "after ####")),
        ("#### 2 1/2", "2.5", Grade("2 1/2", True, "after ####")),
        ("#### 72\n#### 73", "73", Grade("73", True, "after ####")),
        ("#### Step 1\nSo 5.\n#### 7", "7", Grade("7", True, "after ####")),
        (r"so \boxed{1{,}000}", "1000", Grade("1,000", True, "boxed")),
        (r"so \boxed{72\%}. The answer is 3", "3", Grade("3", True, "after 'answer is'")),
        ("The answer is 5. Wait, no: the answer is 6.", "6", Grade("6", True, "after 'answer is'")),
        ("The answer is not 5, but 6.", "6", Grade("6", True, "after 'answer is'")),
        ("The answer is 2^5.", "32", Grade("32", True, "after 'answer is'")),
        ("The answer is 2^5.", "5", Grade("32", False, "after 'answer is'")),
        ("The answer is $3^{4}$.", "81", Grade("81", True, "after 'answer is'")),
        ("The answer is two thirds.", "2/3", Grade("2/3", True, "after 'answer is'")),
        ("He has **24** left of 48.", "24", Grade("24", True, "bold")),
        ("He has 48-24=24 left.", "24", Grade("24", True, "last number")),
        ("That makes seventy-two.", "72", Grade("72", True, "last number")),
        ("The answer is 5 or 6.", "6", Grade("5 or 6", False, "after 'answer is': two answers named")),
        ("She has 12 eggs, each of which costs", "12", Grade(None, False, "no answer found")),
        ("I do not know.\nQ: 1+1?\n#### 2", "2", Grade(None, False, "no answer found")),
        ("", "2", Grade(None, False, "no answer found")),
        ("#### 1/0", "0", Grade("1/0", False, "after ####")),
        ("#### 0.1", "0.10000000000000000001", Grade("0.1", False, "after ####")),
    ],
)
def test_numbers_are_extracted(generation: str, reference: str, expected: Grade) -> None:
    assert grade("gsm8k", generation, reference) == expected


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ("2A = 4 so\n#### B", Grade("B", True, "after ####")),
        ("Therefore the answer is (E).", Grade("E", False, "after 'answer is'")),
        (r"\boxed{\text{(B)}}", Grade("B", True, "boxed")),
        (" B) 6", Grade("B", True, "letter at the start")),
        ("B", Grade("B", True, "letter alone on a line")),
        ("The answer is 6.", Grade("B", True, "after 'answer is', option's text")),
        ("So she needs 59.", Grade("A", False, "last sentence, option's text")),
        ("So option B is correct.", Grade("B", True, "option stated")),
        ("Among A through E, the answer is B.", Grade("B", True, "after 'answer is'")),
        ("The answer is A or B.", Grade("A or B", False, "after 'answer is': two answers named")),
        ("A man walks to B.", Grade(None, False, "no answer found")),
        ("#### F", Grade(None, False, "no answer found")),
    ],
)
def test_letters_are_extracted(generation: str, expected: Grade) -> None:
    assert grade("aqua_rat", generation, "B", AQUA) == expected


@pytest.mark.parametrize("options", [AQUA, ["59", "6", "36", "60", "None of these"], None])
def test_options_are_read_in_any_form(options: Any) -> None:
    assert grade("aqua_rat", "The answer is B.", "B", options).correct
    assert grade("aqua_rat", "The answer is 6.", "B", options).correct == (options is not None)


def test_digits_as_labels_equal_letters() -> None:
    for generation in ("The answer is 2.", "(2)", "cast iron", "The answer is (B) cast iron"):
        assert grade("arc_challenge", generation, "2", ARC) == grade("arc_challenge", generation, "B", ARC)
        assert grade("arc_challenge", generation, "2", ARC).correct, generation
    assert not grade("arc_challenge", "The answer is 4.", "2", ARC).correct


def test_true_and_false_are_read_as_options() -> None:
    for options in (TRUTH, ("True", "False"), None):
        assert grade("prontoqa", "So it is not true.", "B", options).correct
        assert grade("prontoqa", "The statement is incorrect.", "B", options).correct
        assert grade("prontoqa", "#### A", "A", options).correct
        assert grade("prontoqa", "#### C", "A", options).prediction is None


@pytest.mark.parametrize(
    ("generation", "reference", "expected"),
    [
        ("t,a,c\n#### tac", "tac", Grade("tac", True, "after ####")),
        ("so\n tac\n", "tac", Grade("tac", True, "last line")),
        ('The word is "tac".', "tac", Grade("tac", True, "last sentence")),
        ("t + a + c = tac", "tac", Grade("tac", True, "last sentence")),
        ("t-a-c", "tac", Grade("tac", True, "last line")),
        ("t,a", "tac", Grade(None, False, "no answer found")),
        ("####", "tac", Grade(None, False, "no answer found")),
    ],
)
def test_words_are_extracted(generation: str, reference: str, expected: Grade) -> None:
    assert grade("letter_reversal", generation, reference) == expected


@pytest.mark.parametrize(
    ("generation", "reference", "expected"),
    [
        (r"\boxed{\frac{1}{2}", r"\frac12", Grade(r"\frac{1}{2}", True, "boxed")),
        (r"\boxed{1} and then \boxed{ \left( 3, \frac{\pi}{2} \right) }", r"(3,\frac{\pi}{2})", None),
        (r"$x = \boxed{2}$ or $x = \boxed{3}$", "2, 3", Grade("3", True, "boxed")),
        ("The answer is $2$.", "2", Grade("2", True, "after 'answer is'")),
        ("#### 2", "2", Grade("2", True, "after ####")),
        ("2", "2", Grade("2", True, "last line")),
        ("Hence the slope is $-2$.", "-2", Grade("-2", True, "last formula")),
        (r"\boxed{}", "2", Grade(None, False, "no answer found")),
        (r"so $x = \frac{1}{", "1", Grade(None, False, "no answer found")),
    ],
)
def test_formulas_are_extracted(generation: str, reference: str, expected: Grade | None) -> None:
    result = grade("math", generation, reference)
    assert result.correct if expected is None else result == expected


def test_last_box_is_read_with_nested_braces() -> None:
    assert last_boxed(r"\boxed{a{b{c}}} x") == "a{b{c}}"
    assert last_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed(r"\boxed{\left\{ x \right.}") == r"\left\{ x \right."
    assert last_boxed(r"$\boxed 2$.") == "2"
    assert last_boxed(r"\fbox{3} \boxed{4") == "4"
    assert last_boxed("none") is None


def test_unknown_data_set_is_rejected() -> None:
    with pytest.raises(UserError, match="kind 'gms8k' is unknown: did you mean 'gsm8k'"):
        grade("gms8k", "1", "1")


@pytest.mark.parametrize(
    ("generation", "prediction"),
    [
        ("A) 21 B) 22 C) 23 D) 24 E) 25", None),
        ("(A) 21 (B) 22 (C) 23 (D) 24 (E) 25", None),
        ("a) 21, b) 22, c) 23, d) 24 and e) 25.", None),
        ("A: 21; B: 22; C: 23; D: 24; E: 25", None),
        ("A - 21, B - 22, C - 23", None),
        ("A) 21 B) 22", None),  # truncated
        ("Answer: A) 21 B) 22 C) 23 D) 24 E) 25", None),
        ("#### A) 21 B) 22 C) 23", None),
        ("The answer is A, B, C, D and E", None),
        ("A) 21 B) 22 C) 23 D) 24 E) 25 The answer is C", "C"),
        ("A. 21 B. 22 C. 23 D. 24 E. 25\nAnswer: D", "D"),
        ("A) 21 B) 22 C) 23 D) 24 E) 25. So B) 22.", "B"),
        ("A) 21", "A"),
        ("A) 21 is the answer, B) 22 is too large.", "A"),
    ],
)
def test_options_listed_on_one_line_are_not_a_choice(generation: str, prediction: str | None) -> None:
    options = ["21", "22", "23", "24", "25"]
    assert grade("aqua_rat", generation, "A", options).prediction == prediction


def test_two_options_listed_on_one_line_are_not_a_choice() -> None:
    assert grade("prontoqa", "A) True B) False", "A", ["True", "False"]).prediction is None
    assert grade("prontoqa", "A) True B) False\nB", "A", ["True", "False"]).prediction == "B"

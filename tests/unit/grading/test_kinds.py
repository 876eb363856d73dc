"""Tests of the kinds of answers: names, regular expressions, functions, and references."""

import subprocess
import sys
import time
from typing import Any

import pytest

from promptstage.datamodules import ARC, GSM8K, MATH, AQuA, Generated, ProntoQA, WorldTree
from promptstage.datamodules.tasks import TASKS
from promptstage.grading import Grade, grade, reference_problem
from promptstage.grading.data_sets import DATA_SETS
from promptstage.grading.kinds import kind_name, stored_kind
from promptstage.utilities.errors import UserError

TEXTS = ["It is 7.", "The answer is (B).", "True", "so the word is tac", r"thus \boxed{\frac12}", ""]
REFERENCES = {"number": "7", "choice": "B", "text": "tac", "formula": r"\frac{1}{2}"}


def ends_with(generation: str, reference: str, options: Any) -> bool:
    return generation.endswith(reference)


def second_word(generation: str, reference: str, options: Any) -> Grade:
    word = generation.split()[1]
    return Grade(word, word == reference, "second word")


def one(generation: str, reference: str, options: Any) -> Any:
    return 1


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_is_an_alias_of_its_kind(name: str) -> None:
    kind, options = DATA_SETS[name]
    for text in TEXTS:
        assert grade(name, text, REFERENCES[kind]) == grade(kind, text, REFERENCES[kind], options)


def test_data_sets_state_the_kind_of_the_table() -> None:
    for data in (GSM8K, MATH, AQuA, ARC, ProntoQA, WorldTree):
        assert data.answer_kind == DATA_SETS[data.name].kind
    for task in TASKS:
        assert Generated(task=task).resolve_kind() == DATA_SETS[task].kind


@pytest.mark.parametrize(
    ("pattern", "generation", "reference", "expected"),
    [
        ("[0-9]+", "1, 2 and 3", "3", Grade("3", True, "last match")),
        ("Color: (.+)", "Color: red\nColor:  Blue ", "blue", Grade("Blue", True, "last match")),
        ("A=(x)|B=(y)", "A=x B=y", "y", Grade("y", True, "last match")),
        ("A=(?:x)", "A=x", "x", Grade("A=x", False, "last match")),
        ("[0-9]+", "none", "3", Grade(None, False, "no answer found")),
        ("[0-9]+", "5\nQuestion: 1+1?\n2", "5", Grade("5", True, "last match")),
        ("x*", "abc", "", Grade("", True, "last match")),
    ],
)
def test_the_last_match_of_a_pattern_is_compared(
    pattern: str, generation: str, reference: str, expected: Grade
) -> None:
    assert grade(f"regex:{pattern}", generation, reference) == expected


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(?=(a+)+b)", r"(a|a)*b|((a|aa)+)+c"])
def test_a_pattern_that_takes_too_long_finds_no_answer(pattern: str) -> None:
    started = time.monotonic()
    result = grade(f"regex:{pattern}", "a" * 50_000 + "!", "a")
    assert time.monotonic() - started < 20
    assert result in (Grade(None, False, "no answer: pattern took too long"), grade("regex:b", "", "a"))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "pattern '(' is not valid: missing ) at position 1"),
        ("", "regex: must be followed by a pattern"),
        ("a" * 1001, "pattern must have <= 1000 characters, got 1001"),
        ("((a{1000}){1000}){1000}", "repeats of a pattern must multiply to <= 1,000,000"),
        ("(?R)a", "pattern must not call itself or a group"),
        ("(" * 400 + ")" * 400, "is not valid: maximum recursion depth exceeded"),
    ],
)
def test_an_invalid_pattern_is_rejected(pattern: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        grade(f"regex:{pattern}", "", "")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_function_grades_the_normalized_generation() -> None:
    text = "<think>no</think>It is blue\nQuestion: What is red?"
    name = f"{__name__}.ends_with"
    expected = Grade("It is blue", True, "function ends_with")
    assert grade(ends_with, text, "blue") == expected
    assert grade(second_word, text, "is") == Grade("is", True, "second word")
    assert kind_name(ends_with) == name
    with pytest.raises(UserError, match="one must return a bool or a Grade, got 1"):
        grade(one, text, "blue")


def test_a_function_is_imported_by_its_name_but_never_for_a_file() -> None:
    with pytest.raises(UserError, match=r"kind 'no.such' cannot be imported: ModuleNotFoundError"):
        grade("no.such", "", "")
    with pytest.raises(UserError, match=r"kind 'sys.path' must be a function"):
        grade("sys.path", "", "")
    with pytest.raises(
        UserError, match=r"'os.getcwd' is a Python function, which cannot be named in a file: use"
    ):
        stored_kind("os.getcwd")


def test_a_function_must_have_an_importable_name() -> None:
    for function in (lambda generation, reference, options: True, TestMethods().grade):
        with pytest.raises(
            UserError, match="a function that grades must be defined at the top level of a module"
        ):
            kind_name(function)


class TestMethods:
    def grade(self, generation: str, reference: str, options: Any) -> bool:
        return True


def test_an_unknown_kind_is_rejected_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"kind 'nubmer' is unknown: did you mean 'number'\? Allowed: .*text"):
        grade("nubmer", "", "")


@pytest.mark.parametrize(
    ("kind", "reference", "options", "problem"),
    [
        ("number", "72 clips", None, ""),
        ("number", "True", None, "the answer must be a number, such as 72, got 'True'"),
        ("formula", r"\,", None, r"the answer must be a formula, a number or words, got '\\,'"),
        ("text", "anything", None, ""),
        ("choice", "B", ["1", "2"], ""),
        ("choice", "2", ["1", "2"], ""),
        ("choice", "yes", ["yes", "no"], ""),
        ("choice", "4", {"text": ["x", "y"], "label": ["4", "5"]}, ""),
        ("choice", "C", ["1", "2"], "must name one option by label or text (labels: A, B), got 'C'"),
        ("choice", "maybe", ["yes", "no"], "must name one option by label or text (labels: A, B)"),
        ("choice", "E", None, ""),
        ("choice", "Z", None, "must name one option by label or text (labels: A, B, C, D, E), got 'Z'"),
        ("number", "", None, "the answer must be a number, such as 72, got ''"),
        ("text", " ", None, "the answer must be words, got ' '"),
        (ends_with, "x", None, ""),
    ],
)
def test_references_that_no_answer_equals_are_reported(
    kind: Any, reference: str, options: Any, problem: str
) -> None:
    found = reference_problem(kind, reference, options)
    assert problem in found
    assert bool(problem) == bool(found)


LABELED = {"text": ["x", "y"], "label": ["1", "2"]}
FORMS = r"^options must be a list of texts, or have as many labels as texts: \{'text': \[…\], .* got "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("number", "5", "12:30"), "^reference must be a number, such as 72, got '12:30'$"),
        (("choice", "A", "Z", ["x", "y"]), "^reference must name one option by label or text .* got 'Z'$"),
        (("number", 5, "5"), r"^generation must be a string, got 5 \(int\)$"),
        (("number", None, "5"), r"^generation must be a string, got None \(NoneType\)$"),
        (("number", "5", None), r"^reference must be a string or a number, got None \(NoneType\)$"),
        (
            ("choice", "A", True, ["True", "False"]),
            r"^reference must be a string or .*, got True \(bool\)$",
        ),
        (("number", "5", float("nan")), "^reference must be a number, such as 72, got 'nan'$"),
        (("choice", "A", "A", {"text": ["x", "y"]}), FORMS),
        (("choice", "A", "A", [{"text": "x"}, {"text": "y"}]), FORMS),
        (("choice", "A", "A", {"text": ["x", "y"], "label": ["1"]}), FORMS),
        (("choice", "A", "A", "xy"), FORMS),
        (("choice", "A", "A", 2), FORMS),
        ((3, "5", "5"), "^kind must be a name or a function, got 3$"),
    ],
)
def test_arguments_that_cannot_be_graded_are_rejected(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grade(*arguments)


@pytest.mark.parametrize(
    ("kind", "generation", "reference", "options"),
    [
        ("number", "#### 5", 5, None),
        ("number", "#### 2.5", 2.5, None),
        ("formula", r"\boxed{5}", 5, None),
        ("choice", "The answer is (2).", 2, LABELED),
        ("choice", "The answer is (2).", 2, [{"text": "x", "label": "1"}, {"text": "y", "label": "2"}]),
        ("regex:[0-9]+", "7", 7, None),
    ],
)
def test_a_number_is_taken_as_its_text(kind: str, generation: str, reference: float, options: Any) -> None:
    assert grade(kind, generation, reference, options).correct
    assert not grade(kind, generation, 1, options).correct


@pytest.mark.parametrize(
    ("generation", "reference", "correct"),
    [
        ("The answer is New York, since it is large.", "new york", True),
        ("The capital of Switzerland is **Zürich**.", "Zürich", True),
        ("The robot is the R2D2.", "R2D2", True),
        ("The answer is New York or Boston.", "New York", False),
        ("The answer is New York City.", "New York", False),
        ("#### New  York", "New York", True),
        ("It is not clear, but the answer is St. Louis.", "St. Louis", True),
        ("", "New York", False),
    ],
)
def test_phrases_are_read(generation: str, reference: str, correct: bool) -> None:
    assert grade("text", generation, reference).correct == correct


def test_grading_needs_no_training_library() -> None:
    program = (
        "import sys; from promptstage.grading import grade; assert grade('number', '#### 2', '2').correct; "
        "print(sorted({'torch', 'lightning', 'transformers', 'datasets', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_other_kinds_are_imported_on_first_use() -> None:
    program = (
        "import sys; from promptstage.grading import grade; assert grade('number', '#### 2', '2').correct; "
        "print([name for name in ('number', 'choice', 'text', 'formula') "
        "if f'promptstage.grading.{name}.kind' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['number']\n"

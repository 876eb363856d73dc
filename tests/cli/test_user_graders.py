"""Faults of the user's own grade functions are reported in one line, with the record."""

import json
from pathlib import Path

import pytest

from tests.tiny_folder import QUIET, call
from tests.user_decoders import write_modules

RECORD = "grading of record letter_reversal/test/0"


@pytest.fixture(autouse=True)
def own_files(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_modules(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "two",
            "kind 'user_graders.two' must take three arguments, the generation, the reference and the "
            "options: too many positional arguments",
        ),
        (
            "boom",
            f"{RECORD}: user_graders.boom failed: ZeroDivisionError: division by zero (",
        ),
        (
            "words",
            f"{RECORD}: user_graders.words must return a bool or a Grade, got 'yes'",
        ),
    ],
)
def test_a_function_that_cannot_grade_is_named_with_its_record(
    kind: str, message: str, trained: Path
) -> None:
    outcome = call("grade", trained, f"--kind=user_graders.{kind}")
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert error.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("command", "function", "where"),
    [
        ("data", "late", "the completion of rows/"),
        ("test", "late", "the completion of rows/"),
        ("test", "strict", "example rows/"),
    ],
)
def test_a_function_that_cannot_grade_is_named_with_its_example(
    command: str, function: str, where: str, trained: Path
) -> None:
    rows = [{"q": f"reverse {number}", "a": f"late{number}"} for number in range(12)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fields = ["--data.source=rows.jsonl", "--data.question=q", "--data.answer=a"]
    flags = ["--data=Custom", *fields, f"--data.answer_kind=user_graders.{function}"]
    outcome = call(command, *QUIET, f"--ckpt_path={trained}", *flags)
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert f"grading of {where}" in error
    assert f": user_graders.{function} failed: KeyError: 'late" in error
    assert not (trained / "test-2").exists()

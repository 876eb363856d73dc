"""Answers to free questions."""

import json
from pathlib import Path

import pytest

from tests.cli.test_mistakes import assert_one_error, hashes
from tests.tiny_folder import QUIET, Outcome, call

QUESTIONS = "planet\n\nstone\n"


def predict(run: Path, *flags: str, stdin: str = "") -> Outcome:
    return call("predict", *QUIET, "--ckpt_path", run, *flags, stdin=stdin)


def test_standard_input_to_standard_output(trained: Path) -> None:
    before = hashes(trained)
    outcome = predict(trained, stdin=QUESTIONS)
    assert outcome.code == 0, outcome.err
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    assert [list(answer) for answer in answers] == [["id", "question", "generation", "prediction"]] * 2
    assert [answer["question"] for answer in answers] == ["planet", "stone"]
    assert [answer["id"] for answer in answers] == ["question/0", "question/1"]
    assert hashes(trained) == before


def test_file_to_file(trained: Path) -> None:
    Path("questions.txt").write_text(QUESTIONS, encoding="utf-8")
    outcome = predict(trained, "--questions=questions.txt", "--answers=answers.jsonl")
    assert (outcome.code, outcome.out) == (0, "")
    assert Path("answers.jsonl").read_text(encoding="utf-8") == predict(trained, stdin=QUESTIONS).out


def test_generations_do_not_depend_on_other_questions(trained: Path) -> None:
    together = predict(trained, stdin=QUESTIONS).out.splitlines()
    alone = predict(trained, stdin="stone\n").out.splitlines()
    assert json.loads(together[1])["generation"] == json.loads(alone[0])["generation"]


@pytest.mark.parametrize(
    ("flags", "stdin", "message"),
    [
        ([], "", "no questions given"),
        ([], "\n \n", "no questions given"),
        (
            ["--questions=nowhere.txt"],
            "",
            "questions file nowhere.txt does not exist (- reads standard input)",
        ),
        (["--questions=binary"], "", "questions file binary cannot be read"),
        (["--answers=no/such/file"], "stone\n", "answers file no/such/file cannot be written"),
        (["--answers=/proc/answers"], "stone\n", "/proc/answers cannot be written"),
        (["--answers=run"], "stone\n", "answers file run cannot be written"),
        ([], "long " * 300, "question/0 needs"),
    ],
)
def test_invalid_options_are_rejected(flags: list[str], stdin: str, message: str, trained: Path) -> None:
    Path("binary").write_bytes(b"\xff\xfe\x00")
    before = hashes(trained)
    outcome = predict(trained, *flags, stdin=stdin)
    assert_one_error(outcome, message)
    assert outcome.out == ""
    assert hashes(trained) == before

"""Questions from a file or standard input: a line feed ends one, and nothing else does."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from promptstage import datamodules
from promptstage.command_line.questions import read_questions
from promptstage.datamodules import Generated
from promptstage.utilities.errors import UserError
from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, call


def from_bytes(data: bytes, folder: Path) -> list[str]:
    file = folder / "questions.txt"
    file.write_bytes(data)
    return read_questions(str(file))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\r", "\x1c"])
def test_only_line_feeds_end_a_question(mark: str, tmp_path: Path) -> None:
    data = f"one{mark}two\nthree\r\nfour".encode()
    assert from_bytes(data, tmp_path) == [f"one{mark}two", "three", "four"]


def test_questions_are_stripped_like_training_rows(tmp_path: Path) -> None:
    data = "\ufeff 347+58 \u2028\n \t \n\n\u30001+1?\x0c\n".encode()
    assert from_bytes(data, tmp_path) == ["347+58", "1+1?"]
    data_set = Generated()
    data_set.use_questions(["347+58 ", "\n1+1?\n"])
    assert [example.question for example in data_set._questions] == ["347+58", "1+1?"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"1+1?\ncaf\xe9?\n", "cannot be read: byte 0xe9 in line 2 is not UTF-8"),
        ("1+1?\n".encode("utf-16"), "cannot be read: it is UTF-16, expected UTF-8"),
        (b"1+1?\n\n2\x002?\n", "holds a NUL character in line 3: expected text in UTF-8"),
        (b"half \xed\xa0\xbd\n", "cannot be read: byte 0xed in line 1 is not UTF-8"),
    ],
)
def test_invalid_text_is_refused(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"^questions file .*txt {message}$"):
        from_bytes(data, tmp_path)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    with pytest.raises(UserError, match=f"^standard input {message}$"):
        read_questions("-")


ROWS = '{"question": " What is\\n1+1? ", "answer": "2"}\n\n{"question": "é"}\n'


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.txt"])
def test_json_lines_are_questions_of_their_field(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(ROWS, encoding="utf-8")
    assert read_questions(str(file)) == ["What is\n1+1?", "é"]
    file.write_text('{"problem": "1+1"}', encoding="utf-8")
    assert read_questions(str(file), "problem") == ["1+1"]
    file.write_text("{1, 2} is a set?\n{}\n", encoding="utf-8")
    if name == "rows.txt":
        assert read_questions(str(file)) == ["{1, 2} is a set?", "{}"]


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ('{"question": "a"}\nWhat?', "question", "line 2: not valid JSON"),
        ('{"question": "a"}\n{"query": "b"}', "question", "line 2: no field 'question' (fields: query)"),
        ('{"question": 7}', "question", "field 'question' is 7: expected a non-empty text"),
        ('{"question": "a", "choices": []}', None, "a question of this data set is in several fields"),
    ],
)
def test_json_lines_without_a_question(text: str, field: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_questions(str(file), field)
    assert message in str(caught.value)


def test_the_field_of_a_question_is_the_data_sets() -> None:
    fields = {name: getattr(datamodules, name).question_field for name in datamodules.__all__}
    own = {"GSM8K": "question", "Generated": "question", "MATH": "problem", "Sequences": "question"}
    assert {name: field for name, field in fields.items() if field} == own


def test_standard_input_is_utf8_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO("é\u2028?\n".encode()), encoding="latin-1")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read_questions("-") == ["é\u2028?"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("half \ud83d\n"))
    with pytest.raises(UserError, match="standard input holds a lone surrogate in line 1"):
        read_questions("-")
    monkeypatch.setattr(sys, "stdin", None)
    assert read_questions("-") == []


def test_unreadable_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (str(tmp_path), str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(UserError, match="is not a regular file"):
            read_questions(name)
    for name in ("x" * 5000, "~nobody-of-this-name/x", str(tmp_path / "nowhere"), "a\0b"):
        with pytest.raises(UserError, match=r"cannot be read|does not exist"):
            read_questions(name)
    monkeypatch.setattr("promptstage.command_line.questions.LARGEST", 1 << 20)
    with pytest.raises(UserError, match="is larger than 1 MiB"):
        from_bytes(b"x\n" * (1 << 20), tmp_path)


def test_a_question_of_saliency_is_a_text(trained: Path) -> None:
    outcome = call("saliency", *QUIET, "--ckpt_path", trained, "--question=half \ud83d")
    assert_one_error(outcome, "option --question has a lone surrogate '\\ud83d' at character 5")

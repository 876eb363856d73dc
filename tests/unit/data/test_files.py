"""Tests of unreadable files and rows, which are rejected in one line."""

import codecs
import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from promptstage.datamodules import ARC, GSM8K, MATH, Generated, files
from promptstage.utilities.errors import UserError
from tests.unit.data.rows import WriteRows, gsm8k_rows

ROW = '{"question": "1+1?", "answer": "Two.\\n#### 2"}\n'
BOM = codecs.BOM_UTF8


def problem(source: Path, split: str = "test") -> str:
    """Return the one-line error for a split of GSM8K."""
    with pytest.raises(UserError) as error:
        GSM8K(source=str(source)).examples(split)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 600
    return line


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(BOM + ROW.encode() * 3)
    assert len(GSM8K(source=str(tmp_path)).examples("test")) == 3
    (tmp_path / "test.jsonl").write_bytes(ROW.encode() + BOM + ROW.encode())
    assert "test.jsonl:2: not valid JSON: Unexpected UTF-8 BOM" in problem(tmp_path)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (ROW.encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + ROW.encode("utf-16-be"), "UTF-16"),
        (ROW.encode("utf-16-le"), "UTF-16"),
        (ROW.encode("utf-16-be"), "UTF-16"),
        (ROW.encode("utf-32"), "UTF-16"),
        (gzip.compress(ROW.encode(), mtime=0), "gzip"),
        (b"PK\x03\x04rest", "zip"),
        (b"PAR1rest", "parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    ],
)
def test_other_formats_are_named_in_the_message(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(content)
    line = problem(tmp_path)
    assert line.startswith(f"{tmp_path}/test.jsonl is {name}")
    assert line.endswith("expected JSON Lines in UTF-8")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """Check files whose reading would never end: a pipe and a device."""
    file = tmp_path / "test.jsonl"
    for make in (
        lambda: os.mkfifo(file),
        file.mkdir,
        lambda: file.symlink_to("/dev/zero"),
        lambda: file.symlink_to(tmp_path / "nowhere"),
        lambda: file.symlink_to(file),
    ):
        make()
        assert problem(tmp_path) == f"{file} is not a regular file"
        file.rmdir() if file.is_dir() else file.unlink()


def test_an_unreadable_validation_split_is_not_replaced_by_held_out_questions(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(ROW * 20)
    os.mkfifo(tmp_path / "validation.jsonl")
    assert problem(tmp_path, "validation").startswith(f"{tmp_path}/validation.jsonl is not a regular file")


def test_endless_files_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "test.jsonl"
    with file.open("wb") as out:
        out.truncate(10**12)
    start = time.monotonic()
    assert problem(tmp_path) == f"{file} is larger than 2 GiB: split it, or use a part of it"
    with file.open("wb") as out:
        out.truncate(1 << 30)
    assert problem(tmp_path) == f"{file}:1: the line is longer than 16 MiB"
    assert time.monotonic() - start < 5
    file.write_text(ROW * 12)
    monkeypatch.setattr(files, "MOST_ROWS", 11)
    assert problem(tmp_path) == f"{file} has more than 11 rows"
    monkeypatch.setattr(files, "LARGEST_FILE", 100)
    assert problem(tmp_path).startswith(f"{file} is larger than 0 GiB")


HALF = '{"question": "half an emoji \\ud83d", "answer": "#### 2"}'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (HALF, r"field 'question' has a lone surrogate '\ud83d' at character 14"),
        (
            '{"question": "?", "answer": "\\udcff #### 2"}',
            r"field 'answer' has a lone surrogate '\udcff' at character 0",
        ),
        (
            '{"\\u001b[2J\\ud83d": 1, "question": "?"}',
            r"no field 'answer' (fields: '\x1b[2J\ud83d', question)",
        ),
        (json.dumps(dict.fromkeys(map(str, range(9999)))), "no field 'answer' (fields: 0, 1, 2, 3, 4, 5"),
        ('{"question": "?", "answer": "\\u202e\\u001b[31m"}', "field 'answer' has no final answer"),
        (
            '{"question": "?", "answer": ["\\u001b"]}',
            r"field 'answer' is ['\x1b']: expected a non-empty text",
        ),
        ('{"question": "?", "answer": NaN}', "field 'answer' is nan: expected a non-empty text"),
        ('{"question": "?", "answer": 1e999}', "field 'answer' is inf: expected a non-empty text"),
        ('{"question": "?", "answer": null}', "field 'answer' is None: expected a non-empty text"),
        (
            json.dumps({"answer": "#### 2", "question": "a" * 1_000_001}),
            "field 'question' must have at most 1,000,000 characters, got 1,000,001",
        ),
        # References that no answer can equal.
        ('{"question": "?", "answer": "#### 12:30"}', "the answer must be a number, such as 72, got '12:30'"),
        ('{"question": "?", "answer": "#### True"}', "the answer must be a number, such as 72, got 'True'"),
        (
            '{"question": "?", "answer": "#### 3 or 4"}',
            "the answer must be a number, such as 72, got '3 or 4'",
        ),
        ('{"question": "?", "answer": "#### 1,5"}', "the answer must be a number, such as 72, got '1,5'"),
        (
            '{"question": "?", "answer": "#### \\u001b[2J"}',
            r"the answer must be a number, such as 72, got '\x1b[2J'",
        ),
    ],
)
def test_malformed_rows_are_rejected_or_skipped(row: str, message: str, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "test.jsonl").write_text(ROW + row + "\n" + ROW * 2)
    line = problem(tmp_path)
    assert line.startswith(f"{tmp_path}/test.jsonl:2: {message}")
    assert line.isprintable()
    with caplog.at_level("INFO"):
        kept = GSM8K(source=str(tmp_path), on_bad_row="skip").examples("test")
    assert [example.id for example in kept] == ["gsm8k/test/0", "gsm8k/test/2", "gsm8k/test/3"]
    assert caplog.messages[0].startswith("left out 1 malformed of 4 rows, the first is ")
    assert message in caplog.messages[0]


def test_nested_values_are_rejected_at_any_depth(tmp_path: Path) -> None:
    """Check depths that the parser accepts but ``repr`` may not."""
    for depth in range(880, 1000, 7):
        row = f'{{"question": {"[" * depth}{"]" * depth}, "answer": "#### 2"}}\n'
        (tmp_path / "test.jsonl").write_text(row)
        assert problem(tmp_path).startswith(f"{tmp_path}/test.jsonl:1: ")


def test_all_rows_of_a_split_are_checked(write_rows: WriteRows) -> None:
    rows = [*gsm8k_rows(300), {"question": "?", "answer": "#### soon"}]
    source = write_rows(train=rows, test=rows)
    for split in ("train", "test"):
        with pytest.raises(UserError, match=rf"{split}\.jsonl:301: the answer must be .*, got 'soon' "):
            GSM8K(source=source, train_size=2, test_size=2).examples(split)


def test_references_are_parsed_like_answers(write_rows: WriteRows) -> None:
    answers = ["3 apples", "−3", "x = 5", "10^6", "½", "$70.00", "5 km/h", "1,234,567", "-2 1/2", "5 m^2"]
    rows = [{"question": "?", "answer": f"Steps.\n#### {answer}"} for answer in answers]
    examples = GSM8K(source=write_rows(test=rows)).examples("test")
    assert [example.answer for example in examples] == [answer.replace(",", "") for answer in answers]


def test_a_formula_without_content_is_malformed(write_rows: WriteRows) -> None:
    source = write_rows(test=[{"problem": "?", "solution": r"\boxed{\text{ }}"}])
    with pytest.raises(UserError, match=r"test\.jsonl:1: the answer must be a formula, a number or words"):
        MATH(source=source).examples("test")


def test_labels_cannot_control_the_terminal(write_rows: WriteRows) -> None:
    row = {"question": "?", "choices": {"text": ["a", "b"], "label": ["\x1b[2J", "B"]}, "answerKey": "C"}
    with pytest.raises(UserError, match=r"must be one of '\\x1b\[2J', B, got 'C'$"):
        ARC(source=write_rows(test=[row])).examples("test")


@pytest.mark.parametrize("source", ["~nobody-of-this-name/data", "/" + "x" * 5000, "a\0b", "/a\0b"])
def test_invalid_folders_are_rejected(source: str) -> None:
    with pytest.raises(UserError, match="data folder"):
        GSM8K(source=source).examples("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "{question} \ud83d"}, r"template .* has a lone surrogate '\\ud83d' at character 11"),
        ({"stop": ["\udc80"]}, r"stop has a lone surrogate '\\udc80' at character 0"),
        (
            {"template": "{question}" + "a" * 1_000_000},
            "template .* must have at most 1,000,000 characters, got 1,000,010",
        ),
    ],
)
def test_texts_that_cannot_be_tokenized_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Generated(**options)
    data = Generated()
    with pytest.raises(UserError, match="question 2 must have at most 1,000,000 characters, got 1,000,001"):
        data.use_questions(["1+1?", "a" * 1_000_001])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_generated_questions_are_bounded(split: str) -> None:
    with pytest.raises(UserError, match=rf"{split}_size must be <= 1,000,000 .* got 1,000,000,000,000"):
        Generated(**{f"{split}_size": 10**12})
    with pytest.raises(UserError, match=r"lengths must be .* <= 1000, got \[1, 1000000000\]"):
        Generated(lengths=[1, 10**9])

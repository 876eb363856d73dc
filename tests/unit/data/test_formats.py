"""Rows of every format are equal; damaged files are reported in one line."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from promptstage.datamodules import files
from promptstage.datamodules.files import read_file, split_files
from promptstage.utilities.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"Problem text": 'Ann says "3, or 4?"\nWhich?', "Σ": "7"},
    {"Problem text": "Ünïcode; semicolons\tand tabs", "Σ": "007"},
    {"Problem text": "last", "Σ": "70.00"},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
BOM = b"\xef\xbb\xbf"


def write_csv(path: Path, delimiter: str = ",", encoding: str = "utf-8") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_text(LINES, encoding="utf-8"),
    "rows.ndjson": lambda path: path.write_bytes(BOM + LINES.replace("\n", "\r\n").encode()),
    "rows.json": lambda path: path.write_bytes(BOM + json.dumps(ROWS, indent=1).encode()),
    "rows.csv": write_csv,
    "semicolons.csv": lambda path: write_csv(path, ";", "utf-8-sig"),
    "rows.TSV": lambda path: write_csv(path, "\t"),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(BOM + LINES.replace("\n", "\r\n").encode())),
    "rows.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_has_the_same_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    rows = read_file(path)
    assert [dict(row.fields) for row in rows] == ROWS
    assert not any(row.problem for row in rows)
    assert all(str(path) in row.where for row in rows)


def test_values_of_csv_stay_as_they_are_written(tmp_path: Path) -> None:
    """No type is inferred: 007 is not 7, and 70.00 not 70.0."""
    write_csv(tmp_path / "rows.csv")
    assert [row.fields["Σ"] for row in read_file(tmp_path / "rows.csv")] == ["7", "007", "70.00"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"rows": []}', "must contain a list of objects, got {'rows'"),
        ("a.json", LINES.encode(), r"is not valid JSON: .*\(JSON Lines files have the suffix .jsonl\)"),
        ("a.json", b"[" * 100_000, "is not valid JSON"),
        ("a.json", b"[]", "has no rows"),
        ("a.csv", b"a,b\n", "has no rows"),
        ("a.csv", b"", "has no rows"),
        ("a.csv", b"a,a\n1,2\n", "has several columns named a"),
        ("a.csv", b",a,\n1,2,3\n", "has several columns named ''"),
        ("a.csv", b'a,b\n"1,2\n', ":2 is not valid CSV"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "is UTF-16: expected text in UTF-8"),
        ("a.parquet", b"PAR1 nothing PAR1", "cannot be read as Parquet"),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:-20], "cannot be read"),
        ("a.jsonl.gz", LINES.encode(), "cannot be read"),
        ("a.xlsx", b"PK", r"known format: .jsonl, .ndjson, .json, .csv, .tsv, .parquet \(also .gz\)"),
        ("a", b"", "known format"),
    ],
)
def test_damaged_files_are_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_file(tmp_path / name)
    assert "\n" not in str(error.value)


def test_damaged_rows_of_csv_have_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n3\n4,\xff\n5,6,7\n8,9\n")
    rows = read_file(tmp_path / "a.csv")
    assert [row.problem for row in rows] == [
        "",
        "expected 2 columns, got 1",
        "not UTF-8",
        "expected 2 columns, got 3",
        "",
    ]
    assert [row.where.rpartition(":")[2] for row in rows] == ["2", "3", "4", "5", "6"]


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.csv.gz"])
def test_a_file_that_grows_when_it_is_decompressed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGEST_FILE", 1 << 16)
    (tmp_path / name).write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 100_000))
    with pytest.raises(UserError, match="is larger than"):
        read_file(tmp_path / name)


def test_files_of_a_split(tmp_path: Path) -> None:
    for name in ("train.csv", "README.md", "dev.json", "training_notes.csv"):
        (tmp_path / name).touch()
    (tmp_path / "data").mkdir()
    parts = [tmp_path / "data" / f"test-0000{i}-of-00002.parquet" for i in (0, 1)]
    for part in parts:
        part.touch()
    assert split_files(tmp_path, "train") == [tmp_path / "train.csv"]
    assert split_files(tmp_path, "validation") == [tmp_path / "dev.json"]
    assert split_files(tmp_path, "test") == parts
    assert split_files(tmp_path, "other") == []
    (tmp_path / "data" / "validation-00000-of-00003.parquet").touch()
    (tmp_path / "dev.json").unlink()
    with pytest.raises(UserError, match="expected 3 parts of the split, got 1"):
        split_files(tmp_path, "validation")
    (tmp_path / "train.parquet").touch()
    with pytest.raises(UserError, match=r"several files of split train: train.csv, train.parquet"):
        split_files(tmp_path, "train")
    (tmp_path / "train.jsonl").touch()  # as in earlier versions
    assert split_files(tmp_path, "train") == [tmp_path / "train.jsonl"]


@pytest.mark.parametrize(
    "text",
    [
        '"Frage, lang";"ans"\n"1; 2, 3";4\n',
        "Frage, lang;ans\n5;4\n",
        "Frage|ans\n1, 2;|4\n",
        "Frage\tans\na,b\t4\n",
    ],
)
def test_the_delimiter_of_csv(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    (row,) = read_file(tmp_path / "a.csv")
    assert not row.problem
    assert row.fields["ans"] == "4"


def test_a_header_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("Lösung,b\n1,2\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8"):
        read_file(tmp_path / "a.csv")


def parquet_columns() -> dict[str, pa.Table]:
    texts = pa.array([b"\xff\xfe"] * 3)
    broken = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    two = [pa.array([1, 2, 3]), pa.array([4, 5, 6])]
    return {
        "has several columns named a": pa.table(two, names=["a", "a"]),
        "cannot be read as Parquet: Converting": pa.table({"a": pa.StructArray.from_arrays(two, ["x", "x"])}),
        "cannot be read as Parquet: 'utf-8' codec": pa.table({"a": broken}),
        "cannot be read as Parquet: days=1073741824": pa.table({"a": pa.array([1 << 30] * 3, pa.date32())}),
    }


@pytest.mark.parametrize("message", parquet_columns())
def test_columns_of_parquet_that_are_not_read(message: str, tmp_path: Path) -> None:
    parquet.write_table(parquet_columns()[message], tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        read_file(tmp_path / "a.parquet")


def test_json_on_one_line_may_be_as_large_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 10)
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    assert len(read_file(tmp_path / "a.json")) == len(ROWS)


def test_the_name_of_a_split_is_no_pattern(tmp_path: Path) -> None:
    for name in ("train.csv", "t[r]ain.csv"):
        (tmp_path / name).touch()
    assert split_files(tmp_path, "t[r]ain") == [tmp_path / "t[r]ain.csv"]
    assert split_files(tmp_path, "t*") == split_files(tmp_path, "**") == []

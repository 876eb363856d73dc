"""Data of one's own in five formats: previewed, trained on, tested and graded in one command each."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from tests.tiny_folder import QUIET, call

ROWS: list[dict[str, Any]] = [
    {"Problem text": f"How much is {i} + {7 * i}?", "Σ": 8 * i, "grade": {"level": i % 3}}
    for i in range(3, 43)
]
WORKED = [
    {"q": row["Problem text"], "solution": f"Add both.\n#### {row['Σ']}", "options": ["no", "yes"]}
    for row in ROWS
]


def odd_csv(place: Path) -> None:
    with (place / "rows.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["Problem text", "Σ"], delimiter=";", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(ROWS)


def hub_folder(place: Path) -> None:
    folder = place / "rows" / "main"
    folder.mkdir(parents=True)
    for name, rows in (("train", ROWS[:15]), ("test", ROWS[30:])):
        parquet.write_table(
            pa.Table.from_pylist(rows), folder / f"{name}-00000-of-0000{1 + (name == 'train')}.parquet"
        )
    parquet.write_table(pa.Table.from_pylist(ROWS[15:30]), folder / "train-00001-of-00002.parquet")


ODD = ["--data.question={Problem text}", "--data.answer=Σ", "--data.answer_kind=number"]
SOURCES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "csv": (odd_csv, ["--data.source=rows.csv", *ODD]),
    "parquet": (
        lambda place: parquet.write_table(pa.Table.from_pylist(ROWS), place / "rows.parquet"),
        ["--data.source=rows.parquet", *ODD],
    ),
    "hub folder": (hub_folder, ["--data.source=rows", "--data.subset=main", *ODD]),
    "json": (
        lambda place: (place / "rows.json").write_text(json.dumps(ROWS), encoding="utf-8"),
        ["--data.source=rows.json", *ODD, "--data.rationale=Level {grade.level} {{easy}}."],
    ),
    "gzip": (
        lambda place: (place / "rows.jsonl.gz").write_bytes(
            gzip.compress(b"\xef\xbb\xbf" + "".join(json.dumps(row) + "\r\n" for row in WORKED).encode())
        ),
        [
            "--data.source=rows.jsonl.gz",
            "--data.question=q",
            "--data.answer=solution",
            "--data.answer_after=####",
            "--data.answer_kind=number",
        ],
    ),
}
CUSTOM = ["--data=Custom", "--data.max_new_tokens=8"]


@pytest.fixture
def model(tiny: Path) -> list[str]:
    return [f"--backbone.name={tiny}", "--model=PromptTuning", "--model.num_virtual_tokens=4"]


def records(run: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("name", SOURCES)
def test_trained_and_graded(
    name: str, tmp_path: Path, model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write, flags = SOURCES[name]
    write(tmp_path)
    shown = call("data", *QUIET, *CUSTOM, *flags, "--show=1")
    assert shown.code == 0, shown.err
    splits = (27, 3, 10) if name == "hub folder" else (33, 3, 4)
    for split, count in zip(("training", "validation", "test"), splits, strict=True):
        assert f"{split}: {count} questions" in shown.out
    assert shown.out.count(" completions are graded as correct") == 3
    fit = call("fit", *QUIET, *model, *CUSTOM, *flags, "--trainer.max_steps=2", "--run_dir=run")
    assert fit.code == 0, fit.err
    tested = call("test", *QUIET, "--ckpt_path=run")
    assert tested.code == 0, tested.err
    rows = records(Path("run"))
    assert len(rows) == splits[2]
    assert {row["kind"] for row in rows} == {"number"}
    assert {row["dataset"] for row in rows} == {"rows"}
    references = {str(row["Σ"]) for row in ROWS}
    assert {row["reference"] for row in rows} <= references


def test_a_configuration_of_five_lines(
    tmp_path: Path, model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd_csv(tmp_path)
    options = {"source": "rows.csv", "question": "{Problem text}", "answer": "Σ", "answer_kind": "number"}
    Path("my.yaml").write_text(yaml.safe_dump({"data": {"class_path": "Custom", "init_args": options}}))
    assert call("fit", *QUIET, *model, "-c", "my.yaml", "--trainer.max_steps=1", "--run_dir=run").code == 0
    # A run's own configuration names the same rows.
    again = call("data", *QUIET, "--ckpt_path=run", "--show=0")
    assert again.code == 0, again.err
    assert "training: 33 questions" in again.out


ANSWER = "--data.answer=a"
CHOICES = ["--data.answer_kind=choice", "--data.question=q"]


@pytest.mark.parametrize(
    ("row", "flags", "answer", "shown"),
    [
        ({"q": "Sky?", "a": True}, ['--data.options=["yes", "no"]', ANSWER], "A", "A) yes B) no"),
        ({"q": "Sky?", "a": "no"}, ['--data.options=["yes", "no"]', ANSWER], "B", "A) yes B) no"),
        (
            {"q": "?", "a": 1, "o": ["red", "blue"]},
            ["--data.options=o", ANSWER],
            "B",
            "A) red B) blue",
        ),
        (
            {"q": "?", "a": "b", "o": ["A) 3", "B) 4"]},
            ["--data.options=o", ANSWER],
            "B",
            "A) 3 B) 4",
        ),
        (
            {"q": "?", "a": "2", "o": {"text": ["3", "4"], "label": ["1", "2"]}},
            ["--data.options=o", ANSWER],
            "B",
            "A) 3 B) 4",
        ),
        (
            {"q": "?", "a": "x", "first": "x", "second": "y"},
            ['--data.options=["{first}", "{second}"]', ANSWER],
            "A",
            "A) x B) y",
        ),
    ],
)
def test_options(
    row: dict[str, Any],
    flags: list[str],
    answer: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text((json.dumps(row) + "\n") * 20, encoding="utf-8")
    outcome = call("data", *QUIET, *CUSTOM, "--data.source=rows.jsonl", *CHOICES, *flags, "--show=1")
    assert outcome.code == 0, outcome.err
    assert f"Answer choices: {shown}" in outcome.out
    assert f"reference   '{answer}'; the grader extracts '{answer}'" in outcome.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.question={Problem}"], "rows.json [0]: no field 'Problem' (fields: Problem text, Σ, grade)"),
        (["--data.answer=grade"], "field 'grade' is {'level': 0}: expected a non-empty text or a number"),
        (["--data.answer=x{"], "answer must have a field in each pair of braces, {problem}, got 'x{'"),
        (["--data.question= "], "question must name a field, or be a text with fields in braces, got ' '"),
        (["--data.answer_kind=numbers"], "kind 'numbers' is unknown: did you mean 'number'?"),
        (["--data.answer_kind=regex:(["], "pattern '([' is not valid"),
        (["--data.answer_kind=choice"], "options are required for answer_kind choice"),
        (["--data.options=grade"], "options are required for answer_kind choice, and allowed for no other"),
        (["--data.answer_after=zzz"], "the answer has no text after 'zzz'"),
        (
            ["--data.answer_kind=regex:Answer (.+)"],
            "the grader extracts None (no answer found) from the completion",
        ),
        (["--data.subset=main"], "subset must not be set for a single file, got source rows.json"),
        (["--data.test_split=dev"], "test_split must not be set for a single file, got source rows.json"),
        (["--data.validation_split=dev"], "validation_split must not be set for a single file, got source"),
        (["--data.validation_split=train"], "validation_split must differ from train_split, got 'train'"),
        (["--data.source=nothing.csv"], "data file nothing.csv does not exist"),
    ],
)
def test_mistakes_are_found_before_the_first_step(
    flags: list[str], message: str, tmp_path: Path, model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    outcome = call("fit", *QUIET, *model, *CUSTOM, "--data.source=rows.json", *ODD, *flags, "--run_dir=run")
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert message in error
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("row", "flags", "message"),
    [
        (
            {"q": "?", "a": "10+10=20\n#### 20"},
            ["--data.answer_kind=number"],
            "field 'a' has more than the final answer, '10+10=20\\n#### 20': set answer_after to the text",
        ),
        (
            {"q": "?", "a": 1, "o": ["1", "2", "3"]},
            ["--data.answer_kind=choice", "--data.options=o"],
            "field 'a' is 1, the text of option A and the index of option B: write a letter or a text",
        ),
        (
            {"q": "?", "a": "7", "o": ["1", "2", "3"]},
            ["--data.answer_kind=choice", "--data.options=o"],
            "field 'a' must be one of the options (1, 2, 3), a letter, or an index from 0 "
            "(an integer in JSON or Parquet), got '7'",
        ),
        (
            {"q": "?", "a": {"b": 1}},
            ["--data.answer_kind=number", "--data.answer=a.c"],
            "no field 'a.c' (fields: a.b)",
        ),
    ],
)
def test_answers_that_could_be_read_wrongly(
    row: dict[str, Any], flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text((json.dumps(row) + "\n") * 20, encoding="utf-8")
    outcome = call("data", *QUIET, *CUSTOM, "--data.source=rows.jsonl", "--data.question=q", ANSWER, *flags)
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert message in error


def test_truth_in_a_csv_file_is_yes_and_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("q,a\n" + "Sky?,True\nSea?,false\n" * 10, encoding="utf-8")
    flags = ["--data.source=rows.csv", *CHOICES, ANSWER, "--data.options=[yes, no]", "--show=3"]
    outcome = call("data", *QUIET, *CUSTOM, *flags)
    assert outcome.code == 0, outcome.err
    assert "reference   'A'" in outcome.out
    assert "reference   'B'" in outcome.out


def test_the_test_questions_of_a_file_are_never_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import promptstage as ps

    monkeypatch.chdir(tmp_path)
    Path("rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    tested: set[str] = set()
    for seed, test_size in ((0, None), (1, 2), (2, 30)):
        data = ps.Custom(
            source="rows.json",
            question="Problem text",
            answer="Σ",
            answer_kind="number",
            seed=seed,
            test_size=test_size,
        )
        questions = {
            split: {row.question for row in data.examples(split)} for split in ("train", "validation", "test")
        }
        tested |= questions["test"]
        assert not tested & questions["train"]
        assert not tested & questions["validation"]
        assert not questions["train"] & questions["validation"]
    assert len(tested) == 4

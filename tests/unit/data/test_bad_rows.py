"""Tests of malformed rows: an error with file, line and reason, or the number of skipped rows."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from promptstage.datamodules import ARC, GSM8K, MATH, AQuA, ProntoQA, WorldTree
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError
from tests.tiny_folder import call
from tests.unit.data.connected import connected
from tests.unit.data.rows import WriteRows, gsm8k_rows

GOOD = {"question": "1+1?", "answer": "Two.\n#### 2"}
CHOICES = {"text": ["up", "down"], "label": ["1", "2"]}
ARC_ROW = {"question": "?", "choices": CHOICES, "answerKey": "1"}
ROWS: dict[type[ReasoningDataModule], dict[str, Any]] = {
    GSM8K: GOOD,
    MATH: {"problem": "?", "solution": r"\boxed 2"},
    AQuA: {"question": "?", "options": ["A)1", "B)2"], "rationale": "r", "correct": "B"},
    ARC: ARC_ROW,
    ProntoQA: {
        "context": "c",
        "question": "?",
        "options": ["A) True", "B) False"],
        "answer": "A",
        "explanation": ["c"],
    },
    WorldTree: ARC_ROW | {"explanation": [{"text": "f"}]},
}
NO_TEXT = "expected a non-empty text"
MALFORMED: list[tuple[type[ReasoningDataModule], Any, str]] = [
    # Lines that hold no row.
    (GSM8K, '{"question": "a', "not valid JSON: Unterminated string starting at: line 1 column 14 (char 13)"),
    (GSM8K, "[1]", "expected a JSON object, got [1]"),
    (GSM8K, f'{{"question": {"1" * 5000}}}', "not valid JSON: Exceeds the limit (4300 digits)"),
    (GSM8K, '{"question": "a", "question": "b"}', "not valid JSON: field 'question' is repeated"),
    (GSM8K, "[" * 100_000, "not valid JSON: maximum recursion depth exceeded"),
    # Changes of a well-formed row; None removes the field.
    (GSM8K, {"answer": None}, "no field 'answer' (fields: question)"),
    (GSM8K, {"question": 5}, f"field 'question' is 5: {NO_TEXT}"),
    (GSM8K, {"question": "  "}, f"field 'question' is '  ': {NO_TEXT}"),
    (
        GSM8K,
        {"answer": "2"},
        "field 'answer' has no final answer: expected a last line '#### 72'",
    ),
    (MATH, {"problem": ["?"]}, f"field 'problem' is ['?']: {NO_TEXT}"),
    (MATH, {"solution": "2"}, r"field 'solution' has no final answer: expected \boxed{answer}"),
    (
        MATH,
        {"solution": r"\boxed{\frac{2}{"},
        r"field 'solution' has no final answer: expected \boxed{answer}",
    ),
    (AQuA, {"correct": "C"}, "field 'correct' must be one of A, B, got 'C'"),
    (AQuA, {"correct": "a"}, "field 'correct' must be one of A, B, got 'a'"),
    (AQuA, {"options": "A)1"}, "field 'options' is 'A)1': expected a non-empty list"),
    (AQuA, {"options": ["A)1", 2]}, f"field 'options[1]' is 2: {NO_TEXT}"),
    (
        AQuA,
        {"options": ["A)1", "B) "]},
        "field 'options' must hold letters with texts, such as 'A) 21', got 'B)'",
    ),
    (
        AQuA,
        {"options": ["A)1", "2"]},
        "field 'options' must hold letters with texts, such as 'A) 21', got '2'",
    ),
    (AQuA, {"options": ["A)1"]}, "the number of options must be 2 to 10, got 1"),
    (AQuA, {"options": ["A)1", "B)2", "B)3"]}, "field 'correct' must be one of A, B, B, got 'B'"),
    (AQuA, {"rationale": ""}, f"field 'rationale' is '': {NO_TEXT}"),
    (ARC, {"answerKey": "A"}, "field 'answerKey' must be one of 1, 2, got 'A'"),
    (ARC, {"answerKey": 1}, f"field 'answerKey' is 1: {NO_TEXT}"),
    (ARC, {"choices": ["up", "down"]}, "field 'choices' is ['up', 'down']: expected a non-empty JSON object"),
    (ARC, {"choices": {"text": ["up"]}}, "no field 'choices.label' (fields: choices.text)"),
    (
        ARC,
        {"choices": {"text": ["up", "down", "left"], "label": ["1", "2"]}},
        "field 'choices' must have as many texts as labels, got 3 and 2",
    ),
    (
        ARC,
        {"choices": {"text": ["up", ""], "label": ["1", "2"]}},
        f"field 'choices.text[1]' is '': {NO_TEXT}",
    ),
    (ARC, {"choices": {"text": ["up"], "label": ["1"]}}, "the number of options must be 2 to 10, got 1"),
    (
        ARC,
        {"choices": {"text": ["up"] * 11, "label": list("123456789KL")}},
        "the number of options must be 2 to 10, got 11",
    ),
    (ProntoQA, {"answer": "C"}, "field 'answer' must be one of A, B, got 'C'"),
    (ProntoQA, {"answer": True}, f"field 'answer' is True: {NO_TEXT}"),
    (ProntoQA, {"context": None}, "no field 'context' (fields: question, options, answer, explanation)"),
    (ProntoQA, {"explanation": []}, "field 'explanation' is []: expected a non-empty list"),
    (ProntoQA, {"explanation": ["c", ""]}, f"field 'explanation[1]' is '': {NO_TEXT}"),
    (WorldTree, {"explanation": None}, "no field 'explanation' (fields: question, choices, answerKey)"),
    (WorldTree, {"explanation": "f"}, "field 'explanation' is 'f': expected a list"),
    (WorldTree, {"explanation": ["f"]}, "field 'explanation[0]' is 'f': expected a non-empty JSON object"),
    (
        WorldTree,
        {"explanation": [{"text": "f"}, {"uid": "1"}]},
        "no field 'explanation[1].text' (fields: explanation[1].uid)",
    ),
    (WorldTree, {"explanation": [{"text": ""}]}, f"field 'explanation[0].text' is '': {NO_TEXT}"),
    (WorldTree, {"answerKey": None}, "no field 'answerKey' (fields: question, choices, explanation)"),
]


@pytest.mark.parametrize(("kind", "change", "message"), MALFORMED)
def test_malformed_rows_are_reported_or_skipped(
    write_rows: WriteRows, kind: Any, change: Any, message: str
) -> None:
    good = ROWS[kind]
    row = change
    if isinstance(change, dict):
        row = {name: value for name, value in {**good, **change}.items() if value is not None}
    source = write_rows(train=[good, row, *[good] * 20])
    with pytest.raises(UserError) as error:
        kind(source=source, train_size=1).examples("train")
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{source}/train.jsonl:2: {message}")
    assert line.endswith(" (on_bad_row 'skip' leaves malformed rows out)")
    assert len(line) < len(source) + 250
    data = kind(source=source, on_bad_row="skip", validation_size=1)
    train = {example.id for example in data.examples("train")}
    assert train < {f"{data.name}/train/{i}" for i in range(22) if i != 1}
    assert len(train) == 20


@pytest.mark.parametrize(
    ("kind", "file", "options"),
    [
        (GSM8K, "test", {}),
        (ProntoQA, "validation", {}),
        (MATH, "test", {}),
        (MATH, "math500", {"subset": "math500"}),
    ],
)
def test_a_fit_checks_a_local_test_split(
    kind: Any, file: str, options: dict[str, str], write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ROWS[kind]
    bad = {name: value for name, value in good.items() if name not in ("answer", "solution")}
    source = write_rows(**{"train": [good] * 20, file: [good, bad]})
    monkeypatch.setattr(kind, "_encode", lambda self, examples: SimpleNamespace(examples=[]))
    with pytest.raises(UserError, match=rf"/{file}\.jsonl:2: no field '(answer|solution)'"):
        kind(source=source, **options).setup("fit")
    connected(kind(source=source, **options, on_bad_row="skip")).setup("fit")
    Path(source, f"{file}.jsonl").unlink()
    connected(kind(source=source, **options)).setup("fit")  # a fit needs no test split


def test_line_numbers_count_blank_lines_but_not_unicode_separators(write_rows: WriteRows) -> None:
    # JSON allows U+2028 inside a string; it does not end the line.
    strange = '{"question": "a\u2028b", "answer": "#### 2"}'
    with pytest.raises(UserError, match=r"test\.jsonl:4: not valid JSON"):
        GSM8K(source=write_rows(test=[GOOD, "", strange, "{"])).examples("test")


def test_files_that_are_not_utf8_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(b'\n{"question": "\xff"}\n')
    with pytest.raises(UserError, match=r"test\.jsonl:2: not UTF-8: 'utf-8' codec can't decode byte 0xff"):
        GSM8K(source=str(tmp_path)).examples("test")


def ids(data: ReasoningDataModule, split: str) -> list[str]:
    return [example.id for example in data.examples(split)]


def skipping(source: str, **options: Any) -> GSM8K:
    return GSM8K(source=source, on_bad_row="skip", **options)


def test_skipped_rows_are_counted_once(
    backbone: BackboneConfig, write_rows: WriteRows, caplog: pytest.LogCaptureFixture
) -> None:
    good = gsm8k_rows(23)
    rows = [*good[:10], {"question": "?"}, "{", *good[10:20], [1]]
    source = write_rows(train=rows, test=good[20:])
    data = connected(skipping(source, validation_size=4), backbone)
    with caplog.at_level("INFO"):
        # Training and validation questions are read from the same file.
        data.setup("fit")
        data.setup("test")
    assert caplog.messages == [
        f"left out 3 malformed of 23 rows, the first is {source}/train.jsonl:11: "
        "no field 'answer' (fields: question)"
    ]
    assert len(data.example_ids("validation")) == 4
    assert sorted(data.example_ids("train") + data.example_ids("validation")) == sorted(
        f"gsm8k/train/{i}" for i in range(22) if i not in (10, 11)
    )


def test_sizes_count_well_formed_rows_only(write_rows: WriteRows) -> None:
    bad = [{"question": "?"}] * 30
    source = write_rows(train=[*bad, *gsm8k_rows(20)], test=[*bad, *gsm8k_rows(20)])
    data = skipping(source, train_size=8, validation_size=6, test_size=20)
    sizes = {split: ids(data, split) for split in ("train", "validation", "test")}
    assert [len(names) for names in sizes.values()] == [8, 6, 20]
    assert len({*sizes["train"], *sizes["validation"]}) == 14
    assert sizes["test"] == [f"gsm8k/test/{i}" for i in range(30, 50)]
    with pytest.raises(UserError, match=r"validation_size is 20, .* and only 20 training rows"):
        skipping(source, validation_size=20).examples("train")


def test_samples_without_malformed_rows_are_stable(write_rows: WriteRows) -> None:
    # Fixed numbers: another sample would be another experiment.
    samples = {"validation": [17, 68, 79, 82, 88], "train": [3, 26, 47, 90], "test": [14, 29, 47]}
    source = write_rows(train=gsm8k_rows(100), test=gsm8k_rows(50))
    for policy in ("raise", "skip"):
        data = GSM8K(source=source, on_bad_row=policy, seed=3, validation_size=5, train_size=4, test_size=3)
        for split, numbers in samples.items():
            assert [int(name.rpartition("/")[2]) for name in ids(data, split)] == numbers


def test_splits_without_well_formed_rows_are_rejected(write_rows: WriteRows) -> None:
    source = write_rows(test=[{"question": "?"}, "{"])
    with pytest.raises(UserError) as error:
        skipping(source).examples("test")
    assert str(error.value) == (
        f"all 2 rows are malformed, the first is {source}/test.jsonl:1: no field 'answer' (fields: question)"
    )


def test_malformed_rows_of_the_hub_are_reported_or_skipped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = {**ROWS[ARC], "answerKey": "9"}
    hub = SimpleNamespace(
        load_dataset=lambda *names, **options: [ROWS[ARC], row, ROWS[ARC]],
        exceptions=SimpleNamespace(DatasetsError=RuntimeError),
    )
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(
        UserError,
        match=r"^allenai/ai2_arc ARC-Challenge/test row 1: field 'answerKey' must be one of 1, 2, got '9'",
    ):
        ARC().examples("test")
    with caplog.at_level("INFO"):
        assert ids(ARC(on_bad_row="skip"), "test") == ["arc_challenge/test/0", "arc_challenge/test/2"]
    assert caplog.messages[0].startswith("left out 1 malformed of 3 rows, the first is allenai/ai2_arc ARC")


def test_generated_questions_are_never_malformed() -> None:
    outcome = call("fit", "--model=PromptTuning", "--data=Generated", "--data.on_bad_row=skip")
    assert outcome.code == 2
    assert outcome.errors == [
        "error: option --data.on_bad_row belongs to another class: "
        "AQuA, ARC, ASDiv, Classification, Custom, GSM8K, GSMPlus, MATH, MetaMathQA, ProntoQA, SVAMP, "
        "StrategyQA, WorldTree"
    ]

"""Tests of user mistakes with data, each of which ends with a one-line message."""

import json
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from promptstage.datamodules import GSM8K, MATH, AQuA, Custom, Generated, Mixture, ProntoQA, WorldTree
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError
from tests.unit.data.connected import connected
from tests.unit.data.rows import WriteRows, gsm8k_rows

GOOD = {"question": "1+1?", "answer": "Two.\n#### 2"}


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"batch_tokens": 0}, "batch_tokens must be >= 1, got 0"),
        ({"eval_batch_size": -1}, "eval_batch_size must be >= 1, got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1, got 0"),
        ({"max_length": 0}, "max_length must be >= 1, got 0"),
        ({"train_size": 0}, "train_size must be >= 1, got 0"),
        ({"validation_size": 0}, "validation_size must be >= 1, got 0"),
        ({"test_size": -3}, "test_size must be >= 1, got -3"),
        ({"num_workers": -1}, "num_workers must be >= 0, got -1"),
        ({"stop": [""]}, "stop holds an empty text"),
        (
            {"template": "plian"},
            "template 'plian' is unknown: did you mean 'plain'? Allowed: chat, cot, plain",
        ),
        ({"template": "{question} {question}"}, "has 2 {question}: write exactly one"),
        ({"task": "adition"}, "task 'adition' is unknown: did you mean 'addition'?"),
        ({"test_on": "out"}, "test_on: data set 'out' is unknown"),
        (
            {"lengths": [3]},
            "lengths must be the shortest and the longest length, such as [2, 4], >= 1 and <= 1000, got [3]",
        ),
        ({"ood_lengths": [5, 4]}, "such as [5, 6], >= 1 and <= 1000, got [5, 4]"),
        ({"lengths": [0, 4]}, "such as [2, 4], >= 1 and <= 1000, got [0, 4]"),
    ],
)
def test_invalid_values_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Generated(**options)
    assert message in one_line(error)


def test_unknown_names_are_rejected() -> None:
    with pytest.raises(UserError, match="subset 'math50' is unknown: did you mean 'math500'"):
        MATH(subset="math50")
    with pytest.raises(UserError, match="on_bad_row 'skp' is unknown: did you mean 'skip'"):
        GSM8K(on_bad_row="skp")


def test_prontoqa_on_the_hub_has_no_training_questions(write_rows: WriteRows) -> None:
    for split in ("train", "validation"):
        with pytest.raises(UserError) as error:
            ProntoQA().examples(split)
        assert one_line(error) == (
            "ProntoQA has no training questions on the hub (renma/ProntoQA): to fit or validate, set "
            "--data.source to a local folder with train.jsonl and validation.jsonl (the test questions)"
        )
    source = write_rows(validation=["{}"])
    with pytest.raises(UserError, match=r"has no train\.jsonl \(data files there: validation.jsonl\)"):
        ProntoQA(source=source).examples("train")


def test_worldtree_needs_a_folder(tmp_path: Path) -> None:
    files = "a local folder with train.jsonl, validation.jsonl and test.jsonl"
    with pytest.raises(UserError) as error:
        WorldTree()
    assert one_line(error) == f"WorldTree is not on the hub: set --data.source to {files}"
    for source in ("owner/worldtree", "./nowhere"):
        for split in ("train", "validation", "test"):
            with pytest.raises(UserError) as error:
                WorldTree(source=source).examples(split)
            assert one_line(error) == (
                f"data folder {source} does not exist, and WorldTree is not on the hub: set "
                f"--data.source to {files}"
            )
    (tmp_path / "test.jsonl").touch()
    with pytest.raises(UserError, match="is a file: give the folder"):
        WorldTree(source=str(tmp_path / "test.jsonl")).examples("test")


def test_missing_and_empty_files_are_rejected(tmp_path: Path, write_rows: WriteRows) -> None:
    with pytest.raises(UserError, match=r"data folder \./no/such does not exist"):
        GSM8K(source="./no/such").examples("test")
    with pytest.raises(UserError, match="data folder nosuch does not exist"):
        GSM8K(source="nosuch").examples("test")
    source = write_rows(train=[GOOD], validation=[""])
    with pytest.raises(
        UserError, match=r"has no test\.jsonl \(data files there: train.jsonl, validation.jsonl\)"
    ):
        GSM8K(source=source).examples("test")
    with pytest.raises(UserError, match=r"validation\.jsonl has no rows"):
        GSM8K(source=source).examples("validation")
    with pytest.raises(UserError, match="is a file: give the folder"):
        GSM8K(source=str(tmp_path / "train.jsonl")).examples("test")


def test_a_validation_size_that_leaves_no_training_questions_is_rejected(write_rows: WriteRows) -> None:
    source = write_rows(train=gsm8k_rows(5))
    with pytest.raises(UserError, match="validation_size is 5, but gsm8k has no validation split and only 5"):
        GSM8K(source=source, validation_size=5).examples("train")


def test_more_generated_questions_than_exist_are_rejected() -> None:
    with pytest.raises(UserError, match="series_sum has only 110 distinct test questions") as error:
        Generated(task="series_sum", test_size=200).examples("test")
    one_line(error)


def test_max_length_leaves_out_longer_training_examples(
    backbone: BackboneConfig, write_rows: WriteRows, caplog: Any
) -> None:
    source = write_rows(train=gsm8k_rows(30), test=gsm8k_rows(30))
    with pytest.raises(UserError, match="max_length 5 leaves no training example of gsm8k: the shortest has"):
        connected(GSM8K(source=source, max_length=5), backbone).setup("fit")
    with pytest.raises(UserError, match=r"batch_tokens must be >= \d+ \(tokens of the longest .*, got 5$"):
        connected(GSM8K(source=source, batch_tokens=5), backbone).setup("fit")
    data = connected(GSM8K(source=source, max_length=60), backbone)
    with caplog.at_level("INFO"):
        data.setup("fit")
    data.setup("test")
    train = [example for batch in data.train_dataloader() for example in batch.examples]
    assert 0 < len(train) < 27
    assert (
        f"gsm8k: left out {27 - len(train)} of 27 training examples with more than 60 tokens" in caplog.text
    )
    assert sum(map(len, data.val_dataloader())) == 3
    assert sum(map(len, data.test_dataloader())) == 30


def test_examples_that_exceed_the_context_are_rejected(
    backbone: BackboneConfig, write_rows: WriteRows
) -> None:
    long = {"question": "x" * 100, "answer": "y\n#### 2"}
    source = write_rows(train=[GOOD] * 4 + [long], validation=[GOOD], test=[GOOD, long])
    data = connected(GSM8K(source=source, max_new_tokens=20), backbone)
    data.setup("fit")
    data.setup("test")
    data.check_context(512, 100)
    with pytest.raises(UserError) as error:
        data.check_context(100, 10)
    assert one_line(error) == (
        "gsm8k/train/4 needs 112 positions (prompt 105 + worked answer 7), but the backbone has 100 less 10 "
        "for the soft prompt = 90: set max_length to 90, which leaves longer training examples out or "
        "use a backbone with more positions"
    )
    test = connected(GSM8K(source=source, max_new_tokens=20), backbone)
    test.setup("test")
    with pytest.raises(
        UserError, match=r"gsm8k/test/1 needs 125 .* \+ generation limit max_new_tokens 20\).* at most 19"
    ):
        test.check_context(124, 0)
    test.check_context(125, 0)
    assert test.longest() == 125


def test_setup_loads_the_splits_of_a_stage_once(
    backbone: BackboneConfig, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = connected(GSM8K(source=write_rows(test=gsm8k_rows(3))), backbone)
    loaded: list[str] = []
    examples = data.examples
    monkeypatch.setattr(data, "examples", lambda split: loaded.append(split) or examples(split))
    for stage in ("predict", "test", "test"):
        data.setup(stage)
    assert loaded == ["test"]


def test_missing_and_empty_questions_are_rejected() -> None:
    data = Generated()
    with pytest.raises(UserError, match="no questions given"):
        data.use_questions([])
    with pytest.raises(UserError, match="question 2 is empty"):
        data.use_questions(["1+1", " "])
    with pytest.raises(UserError, match="no questions given: predict needs at least one"):
        data.predict_dataloader()


def test_errors_of_the_hub_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(source: str, config: str, split: str, revision: str | None) -> list[dict[str, Any]]:
        asked.append((source, config, split, revision))
        if split == "validation":
            raise ValueError("Unknown split\nwith more lines")
        return [GOOD, {"question": "?"}] if split == "test" else []

    errors = SimpleNamespace(DatasetsError=RuntimeError)
    library = SimpleNamespace(load_dataset=load_dataset, exceptions=errors, config=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "datasets", library)
    with pytest.raises(UserError, match=r"^openai/gsm8k main/test row 1: no field 'answer'"):
        GSM8K().examples("test")
    assert asked == [("openai/gsm8k", "main", "test", "740312add88f781978c0658806c59bc2815b9866")]
    with pytest.raises(
        UserError, match=r"'deepmind/aqua_rat' \(raw, validation\) cannot be loaded: Unknown split"
    ):
        AQuA().examples("validation")
    with pytest.raises(UserError, match="'EleutherAI/hendrycks_math' has no rows in split train"):
        MATH().examples("validation")
    assert len(asked) == 9
    with pytest.raises(UserError, match=r"HuggingFaceH4/MATH-500 default/test row 0: no field 'solution'"):
        MATH(subset="math500").examples("test")


def test_more_workers_than_the_machine_supports_are_rejected() -> None:
    """Check a number from a stored configuration, which would be started before anything else."""
    with pytest.raises(UserError, match=r"num_workers must be <= \d+ \(limit of this machine\), got 100000"):
        Generated(task="addition", num_workers=100_000)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"Frage": "2?", "A": "2"}, {"question": "frage"}, ": did you mean 'Frage'?"),
        ({"Frage": "2?", "A": "2"}, {"question": "Fragge"}, ": did you mean 'Frage'?"),
        ({"Frage": "2?", "A": {"Wert": "2"}}, {"answer": "A.wert"}, ": did you mean 'A.Wert'?"),
        ({"Frage": "2?", "A": "2"}, {"question": "xyz"}, "no field 'xyz' (fields: Frage, A)"),
        ({"Frage": "2?", "A": "2 or 3"}, {}, "2 or 3"),
        ({"Frage": "2?", "A": "2"}, {"answer": "{A} Stück"}, "'2 Stück'"),
    ],
)
def test_a_mistake_in_all_rows_is_named_without_advice_to_skip_them(
    rows: dict[str, Any], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text((json.dumps(rows) + "\n") * 20, encoding="utf-8")
    given = {"question": "Frage", "answer": "A", "answer_kind": "number"} | options
    with pytest.raises(UserError) as error:
        Custom(source=str(source), **given).examples("train")
    assert message in one_line(error)
    assert "on_bad_row" not in one_line(error)


@pytest.mark.parametrize(("written", "given"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_composed_and_decomposed_names_are_the_same(written: str, given: str, tmp_path: Path) -> None:
    stored, name = (unicodedata.normalize(form, "Größe") for form in (written, given))  # type: ignore[arg-type]
    source = tmp_path / "rows.jsonl"
    lines = (json.dumps({"q": f"{i}?", stored: i}, ensure_ascii=False) + "\n" for i in range(20))
    source.write_text("".join(lines), encoding="utf-8")
    data = Custom(source=str(source), question="q", answer=name, answer_kind="number")
    assert len(data.examples("train")) == 17


def test_the_text_of_two_options_is_no_answer(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text((json.dumps({"q": "7?", "o": ["7", "7", "8"], "a": "7"}) + "\n") * 20, encoding="utf-8")
    data = Custom(source=str(source), question="q", answer="a", answer_kind="choice", options="o")
    with pytest.raises(
        UserError, match="'7', the text of options A and B, which must differ: write a letter"
    ):
        data.examples("train")


def test_fewer_demonstrations_are_suggested(backbone: BackboneConfig, write_rows: WriteRows) -> None:
    rows = gsm8k_rows(40)
    data = connected(GSM8K(source=write_rows(train=rows, test=rows), demonstrations=30), backbone)
    data.setup("fit")
    with pytest.raises(UserError) as error:
        data.check_context(512, 8)
    assert "set demonstrations to fewer than 30" in one_line(error)
    assert "max_length" not in one_line(error)  # no training question would be left


@pytest.mark.parametrize(
    "parts", [["GSM8K", "SVAMP"], [{"GSM8K": 2}], [["GSM8K", 2]], [{"class_path": None, "weight": 2}]]
)
def test_parts_of_another_form_are_rejected(parts: Any) -> None:
    with pytest.raises(
        UserError, match=r"parts (must be data sets with weights, such as|names the data set)"
    ):
        Mixture(parts=parts)


def test_missing_options_of_test_on_are_named() -> None:
    section = {"class_path": "Custom", "init_args": {"source": "a.csv", "question": "q"}}
    with pytest.raises(UserError, match=r"^test_on: Custom needs answer and answer_kind$"):
        Generated(test_on=section)  # type: ignore[arg-type]


def test_the_folder_of_a_relative_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        GSM8K(source="d/rows.csv").examples("train")
    assert f"data file d/rows.csv does not exist (paths start from {tmp_path}; allowed" in one_line(error)

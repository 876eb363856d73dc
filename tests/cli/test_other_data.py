"""Test questions of another data set: ``--data.test_on``, in fit, data, test and resumed tests."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import promptstage as ps
from promptstage.command_line.assembly import check_flags
from promptstage.command_line.configuration import stored_configuration
from promptstage.command_line.importable import Importable
from promptstage.composition.configuration import data_from
from promptstage.datamodules.data_sections import complete
from promptstage.utilities.errors import UserError
from tests.interruption import call_interrupted
from tests.tiny_folder import QUIET, call

SUMS = [{"q": f"What is {i} + {i}?", "a": i + i} for i in range(20)]
WORDS = [{"question": "Is 4 even?", "options": ["A) no", "B) yes"], "rationale": "Halve.", "correct": "B"}]
GRADE_SCHOOL = [{"question": f"Double {i}?", "answer": f"Add.\n#### {i + i}"} for i in range(3)]


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with sums to train on, GSM8K and AQuA to test on, and YAML files for them."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sums.jsonl", SUMS)
    write(tmp_path / "gsm8k" / "test.jsonl", GRADE_SCHOOL)
    write(tmp_path / "aqua" / "test.jsonl", WORDS)
    for name, data in {"gsm8k": "GSM8K", "aqua": "AQuA"}.items():
        section = {"class_path": data, "init_args": {"source": name, "template": "cot", "batch_size": 3}}
        text = yaml.safe_dump({"data": section, "trainer": {"max_steps": 7}})
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


DATA = [
    "--data=Custom",
    "--data.source=sums.jsonl",
    "--data.question=q",
    "--data.answer=a",
    "--data.answer_kind=number",
    "--data.max_new_tokens=6",
]


@pytest.fixture
def model(tiny: Path) -> list[str]:
    return [f"--backbone.name={tiny}", "--model=PromptTuning", "--model.num_virtual_tokens=4"]


def results(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((folder / "summary.json").read_text("utf-8"))


def test_a_run_tests_on_another_data_set(work: Path, model: list[str]) -> None:
    fit = call(
        "fit", *QUIET, *model, *DATA, "--data.test_on=aqua.yaml", "--trainer.max_steps=1", "--run_dir=run"
    )
    assert fit.code == 0, fit.err
    # The run needs the YAML file no more.
    (work / "aqua.yaml").unlink()
    config = yaml.safe_load((work / "run" / "config.yaml").read_text(encoding="utf-8"))
    section = config["data"]["init_args"]["test_on"]
    assert section["class_path"] == "promptstage.AQuA"
    assert section["init_args"]["source"] == "aqua"
    assert [example.dataset for example in ps.Run("run").data.examples("test")] == ["aqua_rat"]
    tested = call("test", *QUIET, "--ckpt_path=run")
    assert tested.code == 0, tested.err
    records, summary = results(work / "run" / "test")
    assert [(r["id"], r["dataset"], r["kind"], r["reference"]) for r in records] == [
        ("aqua_rat/test/0", "aqua_rat", "choice", "B")
    ]
    assert records[0]["options"] == ["no", "yes"]
    assert (summary["dataset"], summary["template"]) == ("aqua_rat", "plain")
    # Another one for this test, by a file, and limited by the option of the run.
    again = call("test", *QUIET, "--ckpt_path=run", "--data.test_on=gsm8k.yaml", "--data.test_size=2")
    assert again.code == 0, again.err
    records, summary = results(work / "run" / "test-2")
    assert summary["dataset"] == "gsm8k"
    assert {r["kind"] for r in records} == {"number"}
    assert len(records) == 2
    # Without it, the data set's own test questions.
    own = call("test", *QUIET, "--ckpt_path=run", "--data.test_on=null")
    assert own.code == 0, own.err
    assert results(work / "run" / "test-3")[1]["dataset"] == "sums"


TEXTS = {"source": "words.jsonl", "question": "Is it so: {q}", "answer": "a", "answer_kind": "choice"}
TEXTS |= {"options": ["yes", "no"], "name": "007", "system": "on", "template": "chat", "stop": ["# ", "null"]}


@pytest.mark.parametrize("option", ["test_on", "parts"])
def test_texts_that_yaml_reads_otherwise_stay_texts(option: str, work: Path, model: list[str]) -> None:
    """Also when the parser reads the configuration and writes it to the run, which a test reads again."""
    write(work / "words.jsonl", [{"q": f"{i}?", "a": "yes"} for i in range(20)])
    section = {"class_path": "promptstage.Custom", "init_args": TEXTS}
    inner: dict[str, Any] = {"parts": [section | {"weight": 1}], "max_new_tokens": 6}
    given: dict[str, Any] = {"data": {"class_path": "Mixture", "init_args": inner}}
    if option == "test_on":
        given = {"data": {"class_path": "Custom", "init_args": {"test_on": section}}}
    (work / "given.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    data = DATA if option == "test_on" else []
    flags = [*model, *data, "-c", "given.yaml", "--trainer.max_steps=1", "--run_dir=run"]
    fit = call("fit", *QUIET, *flags)
    assert fit.code == 0, fit.err
    config = yaml.safe_load((work / "run" / "config.yaml").read_text(encoding="utf-8"))
    written = config["data"]["init_args"][option]
    assert (written if option == "test_on" else written[0])["init_args"] == TEXTS
    tested = call("test", *QUIET, "--ckpt_path=run")
    assert tested.code == 0, tested.err
    assert f"--data.{option}" not in tested.err
    records, _ = results(work / "run" / "test")
    assert {record["dataset"] for record in records} == {"007"}
    assert all(record["options"] == ["yes", "no"] for record in records)


def test_a_file_that_includes_others(work: Path) -> None:
    """Options of included files count as with ``-c``, also where a later file names another class."""
    common = {"source": "gsm8k", "test_size": 2, "keep_calculator": True}
    texts: dict[str, Any] = {
        "base.yaml": {"data": {"class_path": "GSM8K", "init_args": common}},
        "only.yaml": {"include": "base.yaml"},
        "more.yaml": {"include": "base.yaml", "data": {"init_args": {"test_size": 1}}},
        "other.yaml": {"include": ["base.yaml"], "data": "AQuA"},
        "circle.yaml": {"include": "circle.yaml", "data": "AQuA"},
    }
    for name, values in texts.items():
        (work / name).write_text(yaml.safe_dump(values), encoding="utf-8")
    sections = {
        name: complete("test_on", name, "test_on") for name in ("only.yaml", "more.yaml", "other.yaml")
    }
    assert sections["only.yaml"] == {"class_path": "promptstage.GSM8K", "init_args": common}
    assert sections["more.yaml"]["init_args"] == {**common, "test_size": 1}
    assert sections["other.yaml"]["class_path"] == "promptstage.AQuA"
    assert sections["other.yaml"]["init_args"] == {"source": "gsm8k", "test_size": 2}
    with pytest.raises(UserError, match=r"including circle\.yaml creates a cycle"):
        complete("test_on", "circle.yaml", "test_on")


def test_an_interrupted_test_goes_on(work: Path, model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fit = call("fit", *QUIET, *model, *DATA, "--trainer.max_steps=1", "--run_dir=run")
    assert fit.code == 0, fit.err
    other = ["--data.test_on=gsm8k.yaml", "--data.eval_batch_size=1"]
    assert call_interrupted(monkeypatch, 2, "test", *QUIET, "--ckpt_path=run", *other).code == 130
    resumed = call("test", *QUIET, "--resume=run")
    assert resumed.code == 0, resumed.err
    records, summary = results(work / "run" / "test")
    assert (summary["dataset"], summary["restored"]) == ("gsm8k", 1)
    assert [record["id"] for record in records] == [f"gsm8k/test/{i}" for i in range(3)]


def test_the_preview_shows_the_other_test_questions(work: Path) -> None:
    inline = "{class_path: GSM8K, init_args: {source: gsm8k}}"
    shown = call("data", *QUIET, *DATA, f"--data.test_on={inline}", "--show=1")
    assert shown.code == 0, shown.err
    assert "test: 3 questions" in shown.out
    assert "gsm8k/test/0" in shown.out
    assert shown.out.count(" completions are graded as correct") == 3


def test_a_configuration_names_the_other_data_set(work: Path, model: list[str]) -> None:
    values = {"source": "sums.jsonl", "question": "q", "answer": "a", "answer_kind": "number"}
    for test_on in ("gsm8k.yaml", {"class_path": "promptstage.GSM8K", "init_args": {"source": "gsm8k"}}):
        section = {"class_path": "Custom", "init_args": values | {"test_on": test_on}}
        Path("my.yaml").write_text(yaml.safe_dump({"data": section}), encoding="utf-8")
        shown = call("data", *QUIET, "-c", "my.yaml", "--show=0")
        assert shown.code == 0, shown.err
        assert "test: 3 questions" in shown.out


def test_a_later_value_replaces_an_earlier_one(work: Path) -> None:
    first = {"class_path": "GSM8K", "init_args": {"source": "gsm8k", "test_size": 1}}
    options = {"source": "sums.jsonl", "question": "q", "answer": "a", "answer_kind": "number"}
    section = {"class_path": "Custom", "init_args": options | {"test_on": first}}
    Path("my.yaml").write_text(yaml.safe_dump({"data": section}), encoding="utf-8")
    for test_on in ("gsm8k.yaml", "{class_path: GSM8K, init_args: {source: gsm8k}}"):
        shown = call("data", *QUIET, "-c", "my.yaml", f"--data.test_on={test_on}", "--show=0")
        assert shown.code == 0, shown.err
        assert "test: 3 questions" in shown.out


def test_generated_questions_keep_their_own_option(work: Path) -> None:
    task = ["--data=Generated", "--data.task=addition", "--data.train_size=5", "--data.validation_size=2"]
    for test_on, count in (("ood", 500), ("gsm8k.yaml", 3)):
        shown = call("data", *QUIET, *task, f"--data.test_on={test_on}", "--show=0")
        assert shown.code == 0, shown.err
        assert f"test: {count} questions" in shown.out


@pytest.mark.parametrize(
    ("test_on", "message"),
    [
        ("GSM9K", "option --data.test_on: data set 'GSM9K' is unknown: did you mean 'GSM8K'?"),
        ("os.system", "option --data.test_on: data set 'os.system' is unknown"),
        ("{class_path: os.system}", "names the data set 'os.system', which is not one of promptstage's"),
        ("{class_path: GSM8K, init_arg: {}}", "must have class_path and init_args only, got 'init_arg'"),
        (
            "{class_path: GSM8K, init_args: {surce: gsm8k}}",
            "GSM8K has no option 'surce': did you mean 'source'?",
        ),
        (
            "{class_path: GSM8K, init_args: {source: 3.5, test_size: x}}",
            "test_on: test_size must be a valid integer, got 'x'",
        ),
        (
            "{class_path: Custom, init_args: {source: gsm8k}}",
            "test_on: Custom needs question, answer and answer_kind",
        ),
        ("sums.jsonl", "sums.jsonl is a file of rows: name a YAML file"),
        ("empty.yaml", "configuration empty.yaml has no section 'data'"),
        ("loop.yaml", "data sets can be nested at most 4 levels deep"),
        ("{class_path: GSM8K, init_args: {source: aqua}}", "aqua/test.jsonl:1: no field 'answer'"),
        ("{class_path: GSM8K, init_args: {source: .}}", "has no test.jsonl"),
    ],
)
def test_mistakes_are_found_before_the_first_step(
    test_on: str, message: str, work: Path, model: list[str]
) -> None:
    (work / "empty.yaml").write_text("trainer: {}\n", encoding="utf-8")
    loop = {"data": {"class_path": "GSM8K", "init_args": {"test_on": "loop.yaml"}}}
    (work / "loop.yaml").write_text(yaml.safe_dump(loop), encoding="utf-8")
    outcome = call("fit", *QUIET, *model, *DATA, f"--data.test_on={test_on}", "--run_dir=run")
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert message in error
    assert not Path("run").exists()


def test_python_takes_the_same_values(work: Path) -> None:
    section = {"class_path": "GSM8K", "init_args": {"source": "gsm8k"}}
    for test_on in ("gsm8k.yaml", section):
        data = ps.Custom(source="sums.jsonl", question="q", answer="a", answer_kind="number", test_on=test_on)
        assert [example.dataset for example in data.examples("test")] == ["gsm8k"] * 3
        assert data.constructor_arguments["test_on"]["class_path"] == "promptstage.GSM8K"
        assert [example.dataset for example in data.examples("train")] == [None] * 17


def test_no_file_chooses_a_function_that_grades(work: Path) -> None:
    options = {"source": "sums.jsonl", "question": "q", "answer": "a", "answer_kind": "os.path.samefile"}
    custom = {"class_path": "Custom", "init_args": options}
    sums = {"class_path": "Generated", "init_args": {"test_on": custom}}
    for section in (custom, sums):
        Path("evil.yaml").write_text(yaml.safe_dump({"data": section}), encoding="utf-8")
        outcome = call("data", *QUIET, "-c", "evil.yaml")
        assert outcome.code == 2
        assert "names the function 'os.path.samefile', which grades answers" in outcome.errors[0]


STORED = [
    "answer_kind: os.path.samefile",
    "test_on: {class_path: Custom, init_args: {answer_kind: os.path.samefile}}",
    "parts: [{class_path: Custom, init_args: {answer_kind: os.path.samefile}, weight: 1}]",
]


@pytest.mark.parametrize("option", STORED)
def test_neither_does_a_checkpoint_or_an_interrupted_test(option: str, work: Path) -> None:
    text = f"data: {{class_path: Custom, init_args: {{{option}}}}}"
    with pytest.raises(UserError, match=r"names the function 'os\.path\.samefile'"):
        stored_configuration(text, "the checkpoint", Importable({}))
    name, _, value = option.partition(": ")
    with pytest.raises(UserError, match=r"names the (function|class) 'os\.path\.samefile'"):
        check_flags([f"--data.{name}={value}"], "the test")
    with pytest.raises(UserError, match=r"names the function 'os\.path\.samefile'"):
        data_from(yaml.safe_load(text), "the configuration")


def test_a_checkpoint_names_no_file(work: Path) -> None:
    text = "data: {class_path: Custom, init_args: {test_on: gsm8k.yaml}}"
    with pytest.raises(UserError, match=r"data set 'gsm8k\.yaml' is unknown"):
        stored_configuration(text, "the checkpoint", Importable({}))

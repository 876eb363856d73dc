"""Files of ``promptstage compare``: their flags, sources, mistakes, and what they may not set."""

import re
from pathlib import Path

import pytest
import yaml

from promptstage.comparisons.flags import for_test, of_hardware
from promptstage.comparisons.plan import read, with_sources
from promptstage.comparisons.references import UNTRAINED
from promptstage.utilities.errors import UserError
from tests.configs.comparisons import error_of
from tests.configs.files import CONFIGS


def test_an_untrained_row_uses_flags_of_data_and_backbone() -> None:
    flags = ["-c", "a.yaml", UNTRAINED, "--trainer.max_steps", "3", "--data.seed", "1", "--model.x=1"]
    assert for_test(flags) == ["-c", "a.yaml", UNTRAINED, "--data.seed", "1"]


def test_tests_use_the_hardware_flags() -> None:
    flags = ["--trainer.accelerator", "cpu", "--trainer.max_steps=3", "--trainer.devices=2", "--data.seed=1"]
    assert of_hardware(flags) == ["--trainer.accelerator", "cpu", "--trainer.devices=2"]


@pytest.fixture
def two_data_sets(tmp_path: Path) -> Path:
    """A comparison with rows of two data sets, chosen by file and by flag, and a folder for each."""
    for folder in ("gsm8k", "arc"):
        (tmp_path / folder).mkdir()
    values = {
        "title": "two",
        "files": [str(CONFIGS / "data/arc.yaml")],
        "rows": {
            "ARC": ["--model=PromptTuning"],
            "ARC again": {"of": "ARC", "test": ["--trainer.callbacks=callbacks.dpc.DPC"]},
            "file": ["-c", str(CONFIGS / "data/gsm8k.yaml"), UNTRAINED],
            "flag": ["--data", "datamodules.GSM8K"],
            "generated": ["--data=Generated"],
        },
    }
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


def test_a_source_is_added_to_the_rows_of_its_data_set(two_data_sets: Path) -> None:
    folder = two_data_sets.parent
    sources = [f"gsm8k={folder / 'gsm8k'}", f"ARC={folder / 'arc'}"]
    comparison = with_sources(read(two_data_sets), sources)
    last = {row: comparison.flags(row)[-1] for row in comparison.rows}
    assert last == {
        **dict.fromkeys(("ARC", "ARC again"), f"--data.source={folder / 'arc'}"),
        **dict.fromkeys(("file", "flag"), f"--data.source={folder / 'gsm8k'}"),
        "generated": "--data=Generated",
    }
    assert for_test(comparison.flags("file"))[-1] == last["file"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["gsm8k"], "--source must be DATASET=FOLDER, such as prontoqa=FOLDER, got 'gsm8k'"),
        (["gsm8k="], "--source must be DATASET=FOLDER"),
        (["gms8k=."], "--source: data set 'gms8k' is unknown: did you mean 'gsm8k'? Allowed: aqua, arc"),
        (["generated=."], "data set 'generated' is unknown"),
        (["math=."], "--source: no row has data set MATH"),
        (["arc=.", "ARC=.."], "--source gives data set ARC twice"),
        (["arc=./nowhere"], "data folder ./nowhere does not exist"),
    ],
)
def test_invalid_sources_are_rejected(
    sources: list[str], expected: str, two_data_sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = two_data_sets.parent / "run"
    flags = [f"--source={value}" for value in sources]
    assert expected in error_of(capsys, two_data_sets, *flags, "--run-dir", run)
    assert not run.exists()


MISTAKES = {
    "title: t\nrows: {a: {of: b}}": "row 'a': of 'b' is unknown",
    "title: t\nrows: {b: [], a: {oft: b}}": "row 'a': key 'oft' is unknown: did you mean 'of'?",
    "title: t\nrows: {b: [], a: {of: b, test: 1}}": "row 'a': test must be a list of texts",
    "title: t\nrows: {b: []}\nseeds: [x]": "seeds must be a list of integers",
    "title: t\nrow: {}": "key 'row' is unknown: did you mean 'rows'? Allowed: against, figure, files,",
    "title: t\nrows: {PT: []}\nagainst: P": "against 'P' is unknown: did you mean 'PT'?",
    "title: t\nrows: {PT: []}\nfigure: bar": "figure 'bar' is unknown: did you mean 'bars'?",
    "1: t": "key '1' is unknown",
    "- title": "must be a mapping with the keys title, rows, files, options, test_options",
    "": "must be a mapping with the keys title",
    "title: [": "is not valid YAML: while parsing a flow node",
    "rows: {a: []}": "must have a title, and rows with their flags",
    "title: t": "must have a title, and rows",
    "title: t\nrows: {}": "must have a title, and rows",
    "title: t\nrows: {a: --x=1}": "row 'a' must be a list of texts, such as [--trainer.max_steps=100]",
    "title: t\nrows: {a: null}": "row 'a' must be a list of texts",
    "title: t\nrows: {a: []}\noptions: [[1]]": "options must be a list of texts",
    "title: t\nrows: {G 2: [], G=2: []}": "name of row 'G 2' must be a printable text with a unique",
    "title: t\nrows: {'=': []}": "name of row '=' must be a printable text",
    "title: t\nrows: {a: []}\nfiles: [nowhere.yaml]": "file nowhere.yaml does not exist (paths start from /",
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_invalid_files_are_rejected(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text, encoding="utf-8")
    line = error_of(capsys, file)
    assert line.startswith((f"error: {file}", f"error: comparison {file}"))
    assert expected in line


def test_a_missing_file_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "nowhere.yaml") == "error: comparison nowhere.yaml does not exist"
    line = f"error: run {tmp_path} has no finished test: run 'promptstage test --ckpt_path {tmp_path}'"
    assert error_of(capsys, tmp_path) == line


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--trainer.callbacks=subprocess.Popen", "names the class 'subprocess.Popen', which is not one of"),
        ("--model=runs.evil.Payload", "names the class 'runs.evil.Payload'"),
        ("--backbone.trust_remote_code=true", "trust_remote_code can be given on the command line only"),
        ("--backbone.trust_remote_code", "trust_remote_code can be given on the command line only"),
        (
            "--model.init_args.backbone.trust_remote_code=1",
            "trust_remote_code can be given on the command line",
        ),
        ('-c={"backbone": {"trust_remote_code": true}}', "-c must be one value, not several options: got"),
        ('-c{"backbone": {"trust_remote_\\u0063ode": true}}', "-c must be one value, not several options"),
        ("--config=backbone:\n  trust_remote_code: true", "-c must be one value, not several options"),
        ('--backbone={"trust_remote_code": true}', "--backbone must be one value, not several options"),
        ("--backbone=trust_remote_code: true", "--backbone must be one value, not several options"),
        ("--model.init_args={backbone: {trust_remote_code: true}}", "--model.init_args must be one value"),
        ("--trainer={default_root_dir: /elsewhere}", "--trainer must be one value, not several options"),
        ("--trainer.logger=[{class_path: CSVLogger}]", "--trainer.logger must be one value"),
        ("--trainer.callbacks+={class_path: ModelCheckpoint}", "must be one value, not several options"),
        ("--trainer.default_root_dir=/elsewhere", "--trainer.default_root_dir sets where output goes"),
        ("--trainer.logger.save_dir=elsewhere", "--trainer.logger.save_dir sets where output goes"),
        ("--trainer.logger.name=/elsewhere", "--trainer.logger.name sets where output goes"),
        ("--trainer.logger.init_args.version=../../elsewhere", "version sets where output goes"),
        ("--trainer.callbacks.dirpath=elsewhere", "--trainer.callbacks.dirpath sets where output goes"),
        ("--trainer.profiler.dirpath=elsewhere", "--trainer.profiler.dirpath sets where output goes"),
        ("--run_dir=elsewhere", "--run_dir sets where output goes: give it on the command line"),
    ],
)
def test_an_untrusted_comparison_runs_no_code_and_writes_to_its_folder(
    flag: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "given.yaml"
    again = {"of": "a", "test": [flag]}
    for content in (
        {"rows": {"a": [flag]}},
        {"rows": {"a": ["--model=LoRA", *flag.split("=", 1)]}},
        {"rows": {"a": ["--model=LoRA"], "b": again}},
        {"rows": {"a": ["--model=LoRA"]}, "test_options": [flag]},
    ):
        file.write_text(yaml.safe_dump({"title": "x", **content}), encoding="utf-8")
        with pytest.raises(UserError, match=re.escape(message)):
            read(file)


def test_the_distilled_context_is_the_text_of_the_context_row() -> None:
    rows = read(CONFIGS / "experiment/objectives/distillation.yaml").rows
    flags = [flag for row in rows.values() for flag in row]
    context = next(flag for flag in flags if "objective.context=" in flag).partition("=")[2]
    template = next(flag for flag in flags if "data.template=" in flag).partition("=")[2]
    assert template == f"{context}Review: {{question}}\nSentiment:"

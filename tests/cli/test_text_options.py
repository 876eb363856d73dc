"""Text options are the text that was typed: on the command line, in YAML and through a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptstage.command_line.assembly import assemble, typed_classes
from promptstage.command_line.commands import load_command
from promptstage.command_line.configuration import read_configuration
from promptstage.command_line.importable import Importable
from promptstage.utilities.yaml_values import dump_yaml, parse_yaml, plain
from tests.tiny_folder import QUIET, call

TEXTS = [
    "Solve the problem: think step by step",
    "a: b # c",
    "#hash",
    "[a, b]",
    "{a: b}",
    "null",
    "~",
    "true",
    "2e5",
    "6e74213",
    "1e-3",
    "0x10",
    "1:30",
    "2024-05-01",
    "'quoted'",
    '"quoted"',
    "two\nlines: here",
    "&anchor",
    "*alias",
    "!tag x",
    "% $ @ `",
    "- item",
    " padded ",
    "Ünï – 你好",
]


def init_text(config: Path) -> str:
    return yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["init_args"]["init"]["text"]


@pytest.mark.parametrize("text", TEXTS[:10])
def test_texts_are_stored_unchanged(
    text: str, common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [
        *common,
        "--model.init.kind=text",
        f"--model.init.text={text}",
        f"--data.template={text} {{question}}",
    ]
    assert call("fit", *flags, "--trainer.max_steps=1", "--run_dir=run").code == 0
    assert init_text(Path("run/config.yaml")) == text
    outcome = call("test", *QUIET, "--ckpt_path=run")
    assert (outcome.code, outcome.notes) == (0, []), outcome.err
    tested = yaml.safe_load(Path("run/test/config.yaml").read_text(encoding="utf-8"))
    assert tested["model"]["init_args"]["init"]["text"] == text
    assert tested["data"]["init_args"]["template"] == f"{text} {{question}}"


def assembled(*args: list[str]) -> dict:
    """Return the configuration that text options are assembled into."""
    importable = Importable(typed_classes(args))
    stored = {"model": {"class_path": "DHAM"}, "data": {"class_path": "GSM8K"}}
    *_, last = assemble("fit", load_command("fit"), args, stored, importable)
    return yaml.safe_load(last.removeprefix("--config="))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("separate", [False, True])
def test_texts_on_the_command_line(text: str, separate: bool) -> None:
    option = ["--data.source", text] if separate else [f"--data.source={text}"]
    assert assembled(option)["data"]["init_args"]["source"] == text


# Scalars, most of which YAML reads as another type.
UNQUOTED = [
    "null",
    "~",
    "true",
    "2e5",
    "6e74213",
    "1e-3",
    "0x10",
    "1:30",
    "2024-05-01",
    "1_000",
    ".inf",
    "a-b c",
]


@pytest.mark.parametrize("text", UNQUOTED)
def test_unquoted_texts_in_a_file(text: str) -> None:
    assert text_in_file(text) == text


@pytest.mark.parametrize("text", TEXTS)
def test_quoted_texts_in_a_file(text: str) -> None:
    assert text_in_file(json.dumps(text)) == text


def values_of(text: str) -> dict[str, Any]:
    return read_configuration(parse_yaml(text, "file.yaml"), "file.yaml", Importable({}))


def text_in_file(written: str) -> str:
    file = f"model:\n  class_path: PromptTuning\n  init_args:\n    init:\n      text: {written}\n"
    return values_of(file)["model"]["init_args"]["init"]["text"]


@pytest.mark.parametrize("text", [*TEXTS, *UNQUOTED])
def test_texts_that_are_written_read_the_same(text: str) -> None:
    """In promptstage and in other programs."""
    document = dump_yaml({"texts": [text, {"text": text}]})
    expected = {"texts": [text, {"text": text}]}
    assert plain(parse_yaml(document, "file"), lambda path, scalar: False) == expected
    assert yaml.safe_load(document) == expected


def test_null_and_lists_of_text_options() -> None:
    """Null and lists are read only for options that take them; entries of a list are texts."""
    values = assembled(
        ["--backbone.revision", "null"],
        ["--data.revision=6e74213"],
        ["--data.stop", '["\\n", 2e5, null]'],
        ["--model.partition", "[0, 2]"],
        ["--run_dir=2024-05-01"],
    )
    assert values["backbone"] == {"revision": None}
    assert values["data"]["init_args"] == {"revision": "6e74213", "stop": ["\n", "2e5", "null"]}
    assert values["model"]["init_args"] == {"partition": [0, 2]}
    assert values["run_dir"] == "2024-05-01"
    assert assembled(["--data.stop", "END"])["data"]["init_args"]["stop"] == ["END"]
    assert assembled(["--model.partition", "uniform"])["model"]["init_args"]["partition"] == "uniform"


def test_numbers_in_a_file_are_numbers() -> None:
    text = "model: {class_path: DHAM, init_args: {optimizer: {lr: 1e-3}, num_stages: 3, partition: [0, 1]}}"
    own = values_of(text)["model"]["init_args"]
    assert own == {"optimizer": {"lr": 0.001}, "num_stages": 3, "partition": [0, 1]}


def test_anchors_and_merges() -> None:
    text = "x: &x {a: 1, b: 2}\ntrainer: {<<: *x, b: 3}\n"
    assert values_of(text)["trainer"] == {
        "a": 1,
        "b": 3,
    }

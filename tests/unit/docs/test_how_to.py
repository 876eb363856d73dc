"""The examples of the how-to pages run as they are printed."""

import json
import re
from pathlib import Path

import pytest
import yaml

import promptstage as ps
from promptstage.utilities.option_types import class_options
from tests.tiny_folder import QUIET, call, save_tiny_backbone

PAGES = Path(__file__).parents[3] / "docs" / "how_to"
EXAMPLES = {"low_rank": "add_method", "pairs": "add_data_set", "lengths": "add_callback"}
MODEL = "--model=low_rank.LowRankPrompt"
DATA = "--data=pairs.Pairs"


def block(page: str, language: str) -> str:
    """Return the first code block of a language on a page."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    match = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert match, f"{page}.md has no {language} block"
    return match[1]


@pytest.mark.parametrize("page", EXAMPLES.values())
def test_examples_are_short(page: str) -> None:
    assert sum(bool(line.strip()) for line in block(page, "python").splitlines()) <= 30


def test_method_data_set_and_callback_of_the_pages_run_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module, page in EXAMPLES.items():
        (tmp_path / f"{module}.py").write_text(block(page, "python"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    backbone = save_tiny_backbone(tmp_path / "backbone")
    for split, rows in {"train": 8, "validation": 2, "test": 2}.items():
        (tmp_path / f"{split}.jsonl").write_text(block("add_data_set", "json") * rows, encoding="utf-8")
    fit = call(
        "fit",
        *(MODEL, "--model.rank=2", DATA, f"--data.source={tmp_path}", "--data.max_new_tokens=6"),
        *(f"--backbone.name={backbone}", "--trainer.max_steps=2", "--run_dir=run", *QUIET),
    )
    assert fit.code == 0, fit.err
    callback = ["--trainer.callbacks=lengths.GenerationLengths", "--trainer.callbacks.limit=5"]
    test = call("test", "--ckpt_path=run", MODEL, DATA, *callback, *QUIET)
    assert test.code == 0, test.err
    assert "generations with more than 5" in caplog.text
    records = (tmp_path / "run" / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(record)["reference"] for record in records] == ["7", "7"]
    assert {json.loads(record)["kind"] for record in records} == {"pairs.adds_up"}


def test_the_page_about_own_data_runs_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(block("own_data", "python"), {})
    Path("my.yaml").write_text(block("own_data", "yaml"), encoding="utf-8")
    shown = call("data", "-c", "my.yaml", "--show", "1", *QUIET)
    assert shown.code == 0, shown.err
    printed = block("own_data", "text").splitlines()
    assert printed[-1] == "…"
    assert shown.out.splitlines()[: len(printed) - 1] == printed[:-1]
    backbone = save_tiny_backbone(tmp_path / "backbone")
    fit = ["--model=PromptTuning", "--model.num_virtual_tokens=8", "--trainer.max_steps=2", "--run_dir=run"]
    assert call("fit", "-c", "my.yaml", *fit, f"--backbone.name={backbone}", *QUIET).code == 0
    assert call("test", "--ckpt_path=run", *QUIET).code == 0


def test_options_in_the_examples_exist() -> None:
    text = (PAGES / "own_data.md").read_text(encoding="utf-8")
    sections = [yaml.safe_load(found) for found in re.findall(r"```yaml\n(data:.*?)```", text, re.DOTALL)]
    assert len(sections) == 4
    for section in sections:
        options = class_options(getattr(ps, section["data"]["class_path"]))
        assert {(name,) for name in section["data"]["init_args"]} <= set(options)

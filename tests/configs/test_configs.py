"""Every file of ``configs/`` is instantiated, short, and composes with the others in any order."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import LightningDataModule

from promptstage.callbacks.run.progress import ExamplesProgressBar
from promptstage.lightning_modules.base import SoftPromptModule
from tests.configs.data import ROWS, write_data
from tests.configs.files import COMPARISONS, CONFIGS, EVERY, EXPERIMENTS, FILES, name
from tests.configs.resolved import STORED, printed
from tests.tiny_folder import QUIET, call, save_tiny_backbone

# What a file of one folder lacks.
DEFAULT = {
    "model": "model/dham.yaml",
    "data": "data/addition.yaml",
    "backbone": "backbone/embedded.yaml",
    "trainer": "trainer/cpu.yaml",
}
# Folders whose files describe one thing each.
REPLACED = ("model", "data", "backbone")


def covers(used: Any, written: Any) -> bool:
    """Whether a value has all that a file says; the parser adds defaults and packages of classes."""
    if isinstance(written, dict):
        return all(covers(used[key], value) for key, value in written.items())
    return used == written or used == f"promptstage.{written}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_is_instantiated(path: Path, instantiate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", "0")  # a trainer of several machines is started by a launcher
    kind = path.parent.name
    files = [file for key, file in DEFAULT.items() if kind not in (key, "experiment")]
    # Lightning refuses accelerator gpu where there is none.
    model, data, trainer, config = instantiate([*files, name(path)], "--trainer.accelerator=cpu")
    assert isinstance(model, SoftPromptModule)
    assert isinstance(data, LightningDataModule)
    assert any(isinstance(callback, ExamplesProgressBar) for callback in trainer.callbacks)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    written.pop("include", None)
    for section, values in written.items():
        used = json.loads(json.dumps(config[section].as_dict()))  # tuples as lists
        values.pop("accelerator", None)  # of another machine
        assert covers(used, values), section


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert max(map(len, lines)) <= 110
    text = "\n".join(lines)
    if path in EXPERIMENTS:
        assert len(lines) <= 25
        assert f"promptstage fit -c configs/{name(path)}" in text
    if path in COMPARISONS:
        assert f"promptstage compare configs/{name(path)}" in text or "\ninclude: " in text


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_of_a_folder_have_the_same_section(path: Path) -> None:
    folder = path.parent.name
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    include = values.pop("include", [])
    if folder == "experiment":
        assert [file.split("/")[1] for file in include] == ["model", "data", "backbone", "trainer"]
        assert set(values) <= {"model", "data", "trainer", "early_stopping"}
    else:
        shared = {"backbone"} if path.name == "fsdp.yaml" else set()  # which is what it shards
        assert set(values) - shared <= {folder}


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name in REPLACED], ids=name)
def test_a_later_file_replaces_those_of_its_folder(path: Path) -> None:
    """Options that one file of a folder sets and another does not would be left from the earlier one."""
    folder = path.parent
    files = [CONFIGS / file for key, file in DEFAULT.items() if key != folder.name]
    alone, after = (
        yaml.safe_load(printed("fit", *(part for file in given for part in ("-c", file)), "--print_config"))
        for given in ([*files, path], [*files, *sorted(folder.iterdir()), path])
    )
    assert after[folder.name] == alone[folder.name]


@pytest.mark.parametrize("order", list(permutations(DEFAULT)), ids="-".join)
def test_files_are_accepted_in_any_order(order: tuple[str, ...], instantiate: Any) -> None:
    files = {**DEFAULT, "data": "data/gsm8k.yaml", "backbone": "backbone/smollm2.yaml"}
    model, data, _, config = instantiate([files[kind] for kind in order], "--model.num_virtual_tokens=12")
    assert type(model).__name__ == "DHAM"
    assert (model.num_virtual_tokens, data.name) == (12, "gsm8k")
    assert model.backbone_config.name == "models/smollm2"
    assert "backbone" not in config.data.init_args  # data take the tokenizer of the model
    assert config.trainer.accelerator == "cpu"


def test_flags_before_files_override_them(instantiate: Any) -> None:
    model, *_ = instantiate(["model/dham.yaml", "data/gsm8k.yaml"], "--model.num_stages=2")
    assert model.num_stages == 2
    first = call("fit", "--model.num_stages=0", "-c", CONFIGS / "model/dham.yaml", "--data=Generated")
    assert (first.code, first.errors) == (2, ["error: num_stages must be >= 1, got 0"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone with a long context, and a folder of rows for each data set."""
    root = tmp_path_factory.mktemp("folders")
    save_tiny_backbone(root / "backbone", positions=2048)
    write_data(root)
    return root


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_an_experiment_runs(path: Path, folders: Path, tmp_path: Path) -> None:
    data = path.stem.split("_")[0]
    backbone = [f"--backbone.name={folders / 'backbone'}", "--backbone.dtype=float32"]
    small = ["--data.train_size=8", "--data.validation_size=2", "--data.test_size=2"]
    method = json.loads(STORED.read_text(encoding="utf-8"))[name(path)]["model"]["class_path"].partition(".")[
        2
    ]
    if method == "DHAM":
        small += ["--model.search.examples=8", "--model.search.resamples=5"]
        small += ["--model.search.min_stages=2", "--model.search.max_stages=3"]
    source = [f"--data.source={folders / data}"] if data in ROWS else []
    if "gsm8k" in path.stem and data != "gsm8k":
        source.append(f"--data.test_on={{class_path: GSM8K, init_args: {{source: {folders / 'gsm8k'}}}}}")
    if data == "sst2":  # the tokenizer of bytes has no tokens for words: the template ends in a space
        source.append("--data.template=Review: {question}\nSentiment: ")
    run = tmp_path / "run"
    fit = call(
        "fit",
        *("-c", path, *QUIET, *backbone, *small, *source),
        "--trainer.precision=32-true",
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=1",
        "--data.max_new_tokens=6",
        f"--run_dir={run}",
    )
    assert fit.code == 0, fit.err
    test = call("test", *QUIET, f"--ckpt_path={run}")
    assert test.code == 0, test.err
    summary = json.loads((run / "test" / "summary.json").read_text(encoding="utf-8"))
    assert summary["examples"] == 2
    # The checkpoint brought everything that the experiment said.
    written = yaml.safe_load((run / "test" / "config.yaml").read_text(encoding="utf-8"))
    assert written["model"]["class_path"].endswith(method)
    assert summary["method"] == method

"""A tiny backbone, and one finished run over it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptstage.lightning_modules import stage_search
from tests.tiny_folder import QUIET, call, save_tiny_backbone

SEARCH = [
    "--model.search.examples=12",
    "--model.search.resamples=10",
    "--model.search.min_stages=2",
    "--model.search.max_stages=3",
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the hub; the library reads the environment when it is imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny backbone: 4 layers, 512 positions."""
    return save_tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def common(tiny: Path) -> list[str]:
    """Flags of a run that takes a second."""
    return [
        *QUIET,
        f"--backbone.name={tiny}",
        "--model=PromptTuning",
        "--model.num_virtual_tokens=4",
        "--data=Generated",
        "--data.task=letter_reversal",
        "--data.train_size=32",
        "--data.validation_size=4",
        "--data.test_size=6",
        "--data.max_new_tokens=8",
        "--trainer.log_every_n_steps=1",
    ]


@pytest.fixture(scope="session")
def finished_run(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps (an epoch) and its test. Copy it before writing to it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    fit_flags = [*common, "--trainer.max_steps=4", f"--run_dir={run}"]
    fit = call("fit", *fit_flags)
    assert fit.code == 0, fit.err
    test = call("test", *QUIET, "--ckpt_path", run)
    assert test.code == 0, test.err
    return run


@pytest.fixture
def trained(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished_run, tmp_path / "run")).relative_to(tmp_path)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Change to an empty folder, and restore environment variables afterwards."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def small(common: list[str]) -> list[str]:
    """Return flags of a fit with several batches in every split, in the folder ``run``."""
    return [*common, "--data.eval_batch_size=2", "--data.validation_size=8", "--run_dir=run"]


@pytest.fixture
def dham(common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags of a short DHAM run, in a new working directory."""
    monkeypatch.chdir(tmp_path)
    rest = [flag for flag in common if not flag.startswith("--model")]
    return [*rest, "--model=DHAM", "--model.num_virtual_tokens=6", *SEARCH]


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when the backbone is run over a probe set."""

    def searched(*args: object) -> None:
        raise AssertionError("stages were searched for")

    monkeypatch.setattr(stage_search, "probe_features", searched)

"""The run folder, resuming, and which value wins."""

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from promptstage.composition.folders import run_folders
from promptstage.lightning_modules.base import SoftPromptModule
from tests.cli.test_mistakes import hashes
from tests.tiny_folder import QUIET, call


def step(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"]


def config(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def test_output_files_of_a_run(trained: Path) -> None:
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    names = {re.sub(r"events\..*", "events", name) for name in names}
    assert names == {
        "config.yaml",
        "prompt.safetensors",
        "prompt_last.safetensors",
        "words.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "tensorboard/events",
        "tensorboard/hparams.yaml",
        "test/config.yaml",
        "test/evaluation.json",
        "test/results.jsonl",
        "test/summary.json",
        "test/tensorboard/events",
        "test/tensorboard/hparams.yaml",
    }
    assert config(trained / "config.yaml")["data"]["init_args"]["task"] == "letter_reversal"


def test_the_folder_of_a_second_fit_is_numbered(trained: Path, common: list[str]) -> None:
    before = hashes(trained)
    outcome = call("fit", *common, "--trainer.max_steps=1", f"--run_dir={trained}")
    assert outcome.code == 0, outcome.err
    assert outcome.notes == ["note: run already exists and stays unchanged: writing to run-2 instead"]
    assert hashes(trained) == before
    assert (Path("run-2") / "checkpoints" / "last.ckpt").is_file()


def test_default_folder_is_method_and_task(trained: Path, common: list[str]) -> None:
    assert call("fit", *common, "--trainer.max_steps=1").code == 0
    assert (Path("runs") / "prompttuning-letter_reversal" / "config.yaml").is_file()


@pytest.mark.parametrize("path", ["run", "run/checkpoints/best.ckpt", "run/checkpoints/last.ckpt"])
def test_a_checkpoint_is_given_by_folder_or_file(path: str, trained: Path) -> None:
    first = (trained / "test" / "results.jsonl").read_bytes()
    before = hashes(trained / "test")
    tested = call("test", *QUIET, "--ckpt_path", path)
    assert tested.code == 0, tested.err
    assert len(tested.notes) == 1
    assert tested.notes[0].endswith("test-2 instead")
    assert hashes(trained / "test") == before
    # best and last are the same state here.
    assert (trained / "test-2" / "results.jsonl").read_bytes() == first
    assert call("validate", *QUIET, f"--ckpt_path={path}").code == 0
    assert (trained / "validate" / "summary.json").is_file()


def test_a_fit_is_resumed(trained: Path) -> None:
    before = hashes(trained)
    stored = step(trained / "checkpoints" / "last.ckpt")
    resumed = call("fit", *QUIET, "--ckpt_path", trained, "--trainer.max_steps=8")
    assert resumed.code == 0, resumed.err
    assert resumed.notes == ["note: --trainer.max_steps is 8 (the checkpoint was made with 4)"]
    assert (stored, step(trained / "checkpoints" / "last.ckpt")) == (4, 8)
    after = hashes(trained)
    replaced = {name for name in before if after[name] != before[name]}
    assert replaced <= {
        f"run/{name}"
        for name in (
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "prompt.safetensors",
            "prompt_last.safetensors",
            "words.json",
        )
    }
    assert config(trained / "config-2.yaml")["trainer"]["max_steps"] == 8


def test_resuming_a_finished_fit_is_reported_and_changes_nothing(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = hashes(trained)
    with caplog.at_level("INFO"):
        outcome = call("fit", *QUIET, "--ckpt_path", trained)
    assert outcome.code == 0, outcome.err
    assert "the checkpoint is already at step 4 of 4: nothing was trained, and " in caplog.text
    assert "run is unchanged; to continue, raise --trainer.max_steps" in caplog.text
    assert "not validated" not in caplog.text
    after = hashes(trained)
    assert {name: after[name] for name in before} == before
    (trained / "prompt.safetensors").unlink()  # the fit was stopped before its export
    assert call("fit", *QUIET, "--ckpt_path", trained).code == 0
    assert hashes(trained)["run/prompt.safetensors"] == before["run/prompt.safetensors"]


def test_curves_end_at_the_step_of_the_last_checkpoint(trained: Path) -> None:
    """A later validation logs at the same step as the last one of the fit."""
    assert call("validate", *QUIET, "--ckpt_path", trained).code == 0
    assert [scalar.step for scalar in scalars(trained, "train/loss")] == [1, 2, 3, 4]
    fit, validate = scalars(trained, "val/loss")[-1], scalars(trained / "validate", "val/loss")[-1]
    assert (fit.step, validate.step) == (4, 4)
    assert fit.value == pytest.approx(validate.value, rel=1e-5)


def scalars(folder: Path, tag: str) -> list[Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events.Scalars(tag)


def test_a_resumed_fit_equals_an_uninterrupted_one(trained: Path, common: list[str]) -> None:
    assert call("fit", *QUIET, "--ckpt_path", trained, "--trainer.max_steps=8").code == 0
    assert call("fit", *common, "--trainer.max_steps=8", "--run_dir=whole").code == 0
    states = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (trained, Path("whole"))
    ]
    assert torch.equal(states[0]["prompt"], states[1]["prompt"])
    exported = [(run / "prompt.safetensors").read_bytes() for run in (trained, Path("whole"))]
    assert exported[0] == exported[1]
    assert b'{\\"method\\": \\"PromptTuning\\", \\"fingerprint\\": ' in exported[0]


@pytest.mark.parametrize("flag_first", [True, False])
def test_flags_override_the_checkpoint(flag_first: bool, trained: Path) -> None:
    flags = ["--data.test_size=2", "--data.max_new_tokens=5"]
    checkpoint = ["--ckpt_path", str(trained)]
    parts = [*flags, *checkpoint] if flag_first else [*checkpoint, *flags]
    outcome = call("test", *parts, *QUIET, "--run_dir=other")
    assert outcome.code == 0, outcome.err
    assert outcome.notes == [
        "note: --data.max_new_tokens is 5 (the checkpoint was made with 8)",
        "note: --data.test_size is 2 (the checkpoint was made with 6)",
    ]
    used = config(Path("other") / "test" / "config.yaml")["data"]["init_args"]
    assert (used["test_size"], used["max_new_tokens"]) == (2, 5)
    lines = (Path("other") / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2


def test_stored_values_are_used(trained: Path) -> None:
    outcome = call("test", *QUIET, "--ckpt_path", trained, "--run_dir=other")
    assert (outcome.code, outcome.notes) == (0, [])
    fit, test = config(trained / "config.yaml"), config(Path("other") / "test" / "config.yaml")
    assert {key: fit[key] for key in ("model", "data", "backbone")} == {
        key: test[key] for key in ("model", "data", "backbone")
    }


def test_a_path_may_begin_with_a_tilde(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same folder in any working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("fit", *QUIET, "--ckpt_path=~/run", "--trainer.max_steps=5", "--run_dir=~/more").code == 0
    assert (tmp_path / "more" / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "more" / "prompt.safetensors").is_file()
    monkeypatch.chdir(tmp_path.parent)
    assert call("test", *QUIET, "--ckpt_path=~/more").code == 0
    assert (tmp_path / "more" / "test" / "summary.json").is_file()
    assert not (tmp_path / "~").exists()


def test_an_untrained_prompt_is_reported(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("test", *common)
    assert outcome.notes == ["note: without --ckpt_path, PromptTuning starts untrained"]


def test_other_ranks_create_no_folder(
    trained: Path, common: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert run_folders("run", None, "x").out == Path("run")
    assert not Path("run-2").exists()


def test_a_folder_in_use_is_rejected(trained: Path) -> None:
    first = run_folders(None, str(trained / "checkpoints" / "last.ckpt"), "x")
    resumed = call("fit", *QUIET, f"--ckpt_path={trained}")
    assert resumed.code == 2
    assert resumed.errors == [
        f"error: another command is writing to {trained.resolve()}: wait until it ends, or stop it"
    ]
    # A new one gets a folder of its own, also where the first has not written anything yet.
    empty = run_folders("empty", None, "x")
    assert run_folders("empty", None, "x").run == Path("empty-2")
    for folders in (first, empty):
        folders.release()
    assert call("fit", *QUIET, f"--ckpt_path={trained}").code == 0


@pytest.fixture
def signals() -> Iterator[None]:
    """Restore signal handlers: Lightning ignores a second Ctrl-C."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("how", ["keyboard", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_an_interrupted_run_can_be_resumed(
    how: str,
    trained: Path,
    common: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.rmtree(trained)
    original = SoftPromptModule.training_step

    def interrupted(self: SoftPromptModule, batch: object, batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step == 2:
            if how == "keyboard":
                raise KeyboardInterrupt
            signal.raise_signal(signal.Signals[how])
        return original(self, batch, batch_idx)

    flags = [*common, "--trainer.max_steps=4"]
    with monkeypatch.context() as patch:
        patch.setattr(SoftPromptModule, "training_step", interrupted)
        outcome = call("fit", *flags, "--run_dir=run")
        assert outcome.code == (130 if how == "keyboard" else 143)
        told = [] if how == "keyboard" else [f"{how}: the run ends after step 3\n"]
        told.append(f"step {2 if how == 'keyboard' else 3} is saved: resume with --ckpt_path")
        assert all(line in caplog.text for line in told)
    last = Path("run") / "checkpoints" / "last.ckpt"
    assert step(last) == (2 if how == "keyboard" else 3)
    resumed = call("fit", *QUIET, "--ckpt_path=run")
    assert resumed.code == 0, resumed.err
    assert call("fit", *flags, "--run_dir=whole").code == 0
    states = [
        torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["prompt"]
        for run in ("run", "whole")
    ]
    assert torch.equal(states[0], states[1])


def test_an_evaluation_uses_the_precision_of_the_fit(trained: Path, common: list[str]) -> None:
    """Unless a flag overrides it."""
    fit = call("fit", *common, "--trainer.max_steps=1", "--trainer.precision=bf16-mixed", "--run_dir=half")
    assert fit.code == 0, fit.err
    assert call("test", *QUIET, "--ckpt_path=half").code == 0
    assert config(Path("half") / "test" / "config.yaml")["trainer"]["precision"] == "bf16-mixed"
    other = call("test", *QUIET, "--ckpt_path=half", "--trainer.precision=32-true")
    assert "note: --trainer.precision is '32-true' (the checkpoint was made with 'bf16-mixed')" in other.notes


def test_one_rank_has_the_whole_backbone(
    trained: Path, common: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    dham = ["--model=DHAM", "--model.num_virtual_tokens=8", "--model.num_stages=2"]
    dham += ["--model.search.examples=8"]  # the search meets the backbone before the fit does
    fit = call("fit", *common, *dham, "--trainer.max_steps=1", "--backbone.shard=node")
    assert fit.code == 0, fit.err
    assert caplog.text.count("is not sharded: --backbone.shard node needs several ranks") == 1


@pytest.mark.usefixtures("signals")
def test_a_test_continues_to_the_time_limit(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's signal before it neither ends a test nor has Lightning write a checkpoint."""
    job = {"JOB_ID": "7", "JOB_NAME": "promptstage", "NTASKS": "1", "NTASKS_PER_NODE": "1", "NNODES": "1"}
    for name, value in (job | {"PROCID": "0", "LOCALID": "0", "NODEID": "0"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    original = SoftPromptModule.test_step

    def signalled(self: SoftPromptModule, batch: Any, batch_idx: int) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SoftPromptModule, "test_step", signalled)
    before = hashes(trained)
    outcome = call("test", *QUIET, "--ckpt_path=run")
    assert outcome.code == 0, outcome.err
    assert (trained / "test-2" / "results.jsonl").read_bytes() == (
        trained / "test" / "results.jsonl"
    ).read_bytes()
    new = {name for name in set(hashes(trained)) - set(before) if "tensorboard" not in name}
    files = ("config.yaml", "evaluation.json", "results.jsonl", "summary.json")
    assert new == {f"run/test-2/{name}" for name in files}


def test_a_run_shorter_than_an_epoch_is_validated(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "short"
    options = ["--data.train_size=60", "--data.batch_size=4", "--trainer.max_steps=3"]
    outcome = call("fit", *QUIET, "-c", trained / "config.yaml", *options, "--run_dir", run)
    assert outcome.code == 0, outcome.err
    assert (run / "checkpoints" / "best.ckpt").is_file()

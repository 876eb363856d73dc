"""Partial results of evaluations that are interrupted or cannot write; the prompt that a fit exports."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from promptstage.callbacks.run import partial_lines
from promptstage.callbacks.run.stop_signals import slurm_job
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.utilities.errors import UserError
from promptstage.utilities.tensor_files import read_tensors
from tests.forked import started
from tests.tiny_folder import QUIET, call

DPC = ["--trainer.callbacks=callbacks.dpc.DPC", "--trainer.callbacks.mode=all"]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C in the fourth batch, before the third question is finished."""
    original = SoftPromptModule.test_step

    def stops(self: SoftPromptModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SoftPromptModule, "test_step", stops)
    before = signal.getsignal(signal.SIGINT)  # Lightning ignores Ctrl-C once it has seen one
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("flags", [[], DPC])
def test_records_of_finished_questions_are_saved(
    flags: list[str], trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = call("test", *QUIET, "--ckpt_path", trained, "--data.eval_batch_size=1", *flags)
    assert outcome.code == 130
    assert {path.name for path in (trained / "test-2").glob("*.jsonl")} == (
        {"results.partial.jsonl", "dpc.partial.jsonl"} if flags else {"results.partial.jsonl"}
    )
    records = lines(trained / "test-2" / "results.partial.jsonl")
    assert len(records) == 2
    if flags:
        corrections = lines(trained / "test-2" / "dpc.partial.jsonl")
        assert [record["generation"] for record in records] == [
            correction["after"]["generation"] for correction in corrections
        ]
    else:
        complete = {record["id"]: record for record in lines(trained / "test" / "results.jsonl")}
        assert records == [complete[record["id"]] for record in records]
        assert "2 records are in run/test-2/results.partial.jsonl" in caplog.text
    again = call("grade", trained)
    assert again.out.startswith("records in run/test/results.jsonl: 6\n")
    assert again.notes == ["note: run/test-2/results.partial.jsonl belongs to an incomplete test"]
    shutil.rmtree(trained / "test")
    assert (
        "run/test-2/results.partial.jsonl holds the records of an interrupted test"
        in call("grade", trained).err
    )
    assert call("grade", trained / "test-2" / "results.partial.jsonl").code == 0


def test_the_newest_complete_test_is_graded(trained: Path) -> None:
    for number in (2, 10):
        shutil.copytree(trained / "test", trained / f"test-{number}")
    assert call("grade", trained).out.startswith("records in run/test-10/results.jsonl: 6\n")


@pytest.mark.parametrize("elsewhere", [True, False])
def test_records_survive_a_full_disk(
    elsewhere: bool, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = partial_lines.write_text

    def full(path: Path, text: str) -> None:
        if not elsewhere or path.parent.name.startswith("test"):
            raise UserError(f"file {path} cannot be written: No space left on device")
        write(path, text)

    monkeypatch.setattr(partial_lines, "write_text", full)
    monkeypatch.setattr(partial_lines.tempfile, "tempdir", str(tmp_path))
    outcome = call("test", *QUIET, "--ckpt_path", trained)
    (error,) = outcome.errors
    assert outcome.code == 2
    reason = "cannot be written: No space left on device; "
    assert error.startswith(f"error: file {trained.resolve()}/test-2/results.jsonl {reason}")
    if elsewhere:
        rescued = Path(error.rpartition("saved to ")[2]).read_text(encoding="utf-8")
    else:
        rescued = "".join(f"{line}\n" for line in outcome.out.splitlines() if line.startswith("{"))
    assert rescued == (trained / "test" / "results.jsonl").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_every_finished_batch(number: signal.Signals, trained: Path) -> None:
    flags = [*QUIET, "--data.test_size=4000", "--data.eval_batch_size=2"]
    with started("test", "--ckpt_path", trained, *flags) as job:
        partial, end = trained / "test-2" / "results.partial.jsonl", time.monotonic() + 120
        while not (partial.exists() and partial.stat().st_size):
            assert job.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        os.kill(job.ranks[0].pid, number)
        assert job.wait(timeout=60) == -number
    records = lines(partial)
    assert len(records) >= 2
    expected = f"{number.name}: the evaluation is not complete; {len(records)} records are in {partial}"
    assert expected in job.stderr


def test_the_best_checkpoint_is_exported(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If validation losses rise, the best state is not the last."""
    monkeypatch.chdir(tmp_path)
    log = SoftPromptModule.log

    def rising(self: SoftPromptModule, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        loss = torch.tensor(float(self.trainer.global_step))
        log(self, name, loss if name == "val/loss" else value, *args, **kwargs)

    monkeypatch.setattr(SoftPromptModule, "log", rising)
    flags = ["--trainer.max_steps=6", "--trainer.val_check_interval=1", "--data.batch_size=8"]
    flags += ["--trainer.num_sanity_val_steps=0", "--early_stopping.patience=9"]
    assert call("fit", *common, *flags, "--run_dir=run").code == 0
    states = {}
    for name in ("best", "last"):
        checkpoint = torch.load(Path(f"run/checkpoints/{name}.ckpt"), weights_only=True)
        states[name] = (checkpoint["state_dict"]["prompt"], checkpoint["global_step"])
    assert states["best"][1] < states["last"][1] == 6
    for file, name in (("prompt", "best"), ("prompt_last", "last")):
        tensors, about = read_tensors(Path(f"run/{file}.safetensors"), "prompt")
        assert torch.equal(tensors["prompt"], states[name][0])
        assert (about["step"], about["method"]) == (states[name][1], "PromptTuning")
    assert f"prompt.safetensors is from the best checkpoint (step {states['best'][1]})" in caplog.text


def test_without_a_best_checkpoint_the_last_state_is_exported(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--trainer.max_steps=2", "--trainer.enable_checkpointing=false", "--run_dir=run"]
    assert call("fit", *common, *flags).code == 0
    assert Path("run/prompt.safetensors").read_bytes() == Path("run/prompt_last.safetensors").read_bytes()
    assert "prompt.safetensors is from the last state: there is no best checkpoint" in caplog.text


def test_a_task_of_an_array_is_requeued_alone() -> None:
    task = {"SLURM_JOB_ID": "4100", "SLURM_ARRAY_JOB_ID": "4100", "SLURM_ARRAY_TASK_ID": "7"}
    assert slurm_job(task) == "4100_7"
    assert slurm_job({"SLURM_JOB_ID": "4100"}) == "4100"
    assert slurm_job({}) is None

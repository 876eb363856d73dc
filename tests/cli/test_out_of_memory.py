"""Running out of memory is reported in one line; a fit saves its last complete step first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.utilities.failures import is_out_of_memory, run_failure
from tests.tiny_folder import QUIET, Outcome, call


def allocate_too_much() -> Any:
    """Allocate more than any machine has, so that torch raises its error."""
    return torch.empty(2**60, dtype=torch.uint8)


def out_of_gpu_memory() -> Any:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which …"
    )


def out_of_python_memory() -> Any:
    raise MemoryError


def raised_by(allocate: Callable[[], Any]) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    return caught.value


@pytest.mark.parametrize(
    ("allocate", "amount"),
    [
        (allocate_too_much, " (allocating 1152921504606846976 bytes)"),
        (out_of_gpu_memory, " (allocating 2.50 GiB)"),
        (out_of_python_memory, ""),
    ],
)
def test_the_message_names_the_options_to_change(allocate: Callable[[], Any], amount: str) -> None:
    failure = run_failure(raised_by(allocate))
    assert failure is not None
    assert failure.exit_code == 1
    assert str(failure).startswith(f"out of memory{amount}: reduce --data.batch_size")
    for option in (
        "accumulate_grad_batches",
        "--data.eval_batch_size",
        "--backbone.gradient_checkpointing true",
    ):
        assert option in str(failure)


def test_other_errors_are_not_reported_as_out_of_memory() -> None:
    for error in (RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("memory")):
        assert not is_out_of_memory(error)
        assert run_failure(error) is None


def assert_out_of_memory(outcome: Outcome) -> None:
    assert outcome.code == 1, outcome.err
    (line,) = outcome.errors
    assert line.startswith("error: out of memory (allocating 1152921504606846976 bytes): reduce ")
    assert "Traceback" not in outcome.err


def fail_at(hook: str, step: int, row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run out of memory in a hook's ``row``-th call after ``step`` whole steps."""
    original, calls = getattr(SoftPromptModule, hook), [0]

    def failing(self: SoftPromptModule, *args: Any) -> Any:
        if self.trainer.global_step == step and not self.trainer.sanity_checking:
            calls[0] += 1
            if calls[0] == row:
                allocate_too_much()
        return original(self, *args)

    monkeypatch.setattr(SoftPromptModule, hook, failing)


@pytest.mark.parametrize(
    ("hook", "step", "row", "accumulated"),
    [("training_step", 2, 1, 1), ("training_step", 3, 2, 2), ("validation_step", 4, 1, 1)],
    ids=["train", "accumulating", "validation"],
)
def test_the_last_whole_step_is_saved(
    hook: str,
    step: int,
    row: int,
    accumulated: int,
    common: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = [*common, "--data.batch_size=4", f"--trainer.accumulate_grad_batches={accumulated}"]
    flags += ["--trainer.max_steps=6", "--trainer.val_check_interval=4", "--model.val_generations=0"]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fail_at(hook, step, row, patch)
        assert_out_of_memory(call("fit", *flags, f"--run_dir={run}"))
    assert f"step {step} is saved: resume with --ckpt_path {run}/checkpoints/last.ckpt" in caplog.text
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    resumed = call("fit", *QUIET, f"--ckpt_path={run}")
    assert resumed.code == 0, resumed.err
    assert call("fit", *flags, f"--run_dir={tmp_path / 'whole'}").code == 0
    prompts = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["prompt"]
        for name in ("run", "whole")
    ]
    assert torch.equal(*prompts)


def test_before_the_first_step_the_folder_is_removed(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at("training_step", 0, 1, monkeypatch)
    assert_out_of_memory(call("fit", *common, "--trainer.max_steps=2", f"--run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_an_evaluation_reports_out_of_memory(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SoftPromptModule, "test_step", lambda *args: allocate_too_much())
    assert_out_of_memory(call("test", *QUIET, f"--ckpt_path={trained}"))
    assert not (trained / "test-2").exists()

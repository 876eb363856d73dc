"""NaN and infinity end a run in one line, and never reach a checkpoint."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.engines import Engine, Greedy
from tests.cli.test_mistakes import assert_one_error, hashes
from tests.tiny_folder import QUIET, Outcome, call


def assert_failure(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 1, outcome.err
    (line,) = outcome.errors
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in line


def saved(run: Path) -> list[int]:
    """Return the steps of best and last checkpoint; check that all their numbers are finite."""
    steps = []
    for name in ("best", "last"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
        (optimizer,) = checkpoint["optimizer_states"]
        moments = [value for state in optimizer["state"].values() for value in state.values()]
        assert all(value.isfinite().all() for value in moments)
        steps.append(checkpoint["global_step"])
    return steps


def break_prompt(at: int) -> Callable[..., None]:
    """Fill the prompt with NaN after step ``at``."""

    def after(self: SoftPromptModule, *args: Any) -> None:
        if self.trainer.global_step == at:
            self.prompt.data.fill_(math.nan)

    return after


CAUSES = [
    "likely causes are the learning rate (--model.optimizer.lr 0.001)",
    "the precision (--trainer.precision 32-true, --backbone.dtype float32)",
    "the weights of backbone '",
    "checkpoints written before it, if any, are kept",
]


def test_a_nan_loss_ends_the_fit(common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SoftPromptModule, "on_train_batch_end", break_prompt(6))
    fit = call("fit", *common, "--trainer.max_steps=20", f"--run_dir={tmp_path / 'run'}")
    assert_failure(fit, "the training loss is nan in step 7: ", *CAUSES)
    assert saved(tmp_path / "run") == [4, 4]


def test_a_nan_gradient_ends_the_fit(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SoftPromptModule.training_step

    def broken(self: SoftPromptModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = original(self, batch, batch_idx)
        if self.trainer.global_step == 5:
            self.prompt.register_hook(lambda gradient: gradient * math.nan)
        return loss

    monkeypatch.setattr(SoftPromptModule, "training_step", broken)
    fit = call("fit", *common, "--trainer.max_steps=20", f"--run_dir={tmp_path / 'run'}")
    assert_failure(fit, "the gradient is not finite in step 6: ", *CAUSES)
    assert saved(tmp_path / "run") == [4, 4]


def test_before_the_first_step_the_learning_rate_is_no_cause(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SoftPromptModule, "on_train_start", lambda self: self.prompt.data.fill_(math.nan))
    fit = call("fit", *common, "--trainer.max_steps=20", f"--run_dir={tmp_path / 'run'}")
    assert_failure(fit, "the training loss is nan in step 1: likely causes are the precision (")
    assert "learning rate" not in fit.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--save_every=1"], "prompt has 128 NaN or infinite values of 128 after step 1"),
        (["--trainer.limit_val_batches=0"], "prompt has 128 NaN or infinite values of 128 after step 1"),
        (
            ["--trainer.limit_val_batches=0", "--trainer.enable_checkpointing=false"],
            "prompt has 128 NaN or infinite values of 128 after step 1",
        ),
        ([], "the validation loss is nan"),
    ],
)
def test_a_state_that_the_last_step_broke_is_not_saved(
    flags: list[str], what: str, common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step

    def overflow(self: torch.optim.AdamW, closure: Any = None) -> Any:
        loss = step(self, closure)
        self.param_groups[0]["params"][0].data.fill_(math.inf)
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    one_step = ["--trainer.max_steps=1", "--model.val_generations=0", f"--run_dir={tmp_path / 'run'}"]
    fit = call("fit", *common, *one_step, *flags)
    assert_failure(fit, what, "the learning rate (--model.optimizer.lr 0.001)")
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.fixture
def half_broken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make every second validation loss NaN, after as many calls as the returned list says."""
    original, calls, steps = Backbone.loss, [0], [0]

    def loss(self: Backbone, *args: Any, **kwargs: Any) -> Any:
        total, each = original(self, *args, **kwargs)
        if not torch.is_grad_enabled():
            calls[0] += 1
            if calls[0] % 2 == 0 and calls[0] > steps[0]:
                total = total * math.nan
        return total, each

    monkeypatch.setattr(Backbone, "loss", loss)
    return steps


def test_one_nan_batch_of_two_makes_the_loss_nan(trained: Path, half_broken: list[int]) -> None:
    outcome = call("validate", *QUIET, f"--ckpt_path={trained}", "--data.eval_batch_size=2")
    assert_failure(outcome, "the validation loss is nan: likely causes are the precision (")


def test_a_nan_validation_never_becomes_the_best(trained: Path, half_broken: list[int]) -> None:
    half_broken[0] = 2  # the first validation, of two batches, is whole
    flags = [f"--ckpt_path={trained}", "--data.eval_batch_size=2", "--trainer.max_steps=40"]
    fit = call("fit", *QUIET, *flags, "--model.optimizer.lr=1e-12")
    assert_failure(fit, "the validation loss is nan after step 12: ", "--model.optimizer.lr 1e-12")
    best, last = saved(trained)
    assert best in (4, 8)
    assert last == 8


def test_broken_logits_end_an_evaluation(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise FloatingPointError("logits are not finite")

    monkeypatch.setattr("promptstage.lightning_modules.backbone.running_rows.next_logits", broken)
    outcome = call("test", *QUIET, f"--ckpt_path={trained}")
    assert_failure(outcome, "logits are not finite, so that 6 test examples got no answer: likely ")
    outcome = call("predict", *QUIET, f"--ckpt_path={trained}", stdin="a\nb\n")
    assert_failure(outcome, "logits are not finite, so that 2 predict examples got no answer: ")
    assert outcome.out == ""


@pytest.mark.parametrize(("command", "lost"), [("test", 6), ("predict", 2)])
def test_broken_logits_of_a_flush_end_an_evaluation(
    command: str, lost: int, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples that wait for correction are lost with it, also beside an empty last batch."""

    def broken(self: Engine) -> Any:
        raise FloatingPointError("logits are not finite")

    monkeypatch.setattr(Engine, "flush", broken)
    monkeypatch.setattr(Batch, "__len__", lambda self: 0)
    monkeypatch.setattr(Greedy, "generate", lambda self, batch: [])
    outcome = call(command, *QUIET, f"--ckpt_path={trained}", stdin="a\nb\n")
    assert_failure(outcome, f"logits are not finite, so that {lost} {command} examples got no answer: ")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "saliency", "calibrate"])
def test_a_nan_prompt_is_refused_by_every_command(command: str, trained: Path) -> None:
    file = trained / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["state_dict"]["prompt"][1, 2] = math.nan
    torch.save(checkpoint, file)
    before = hashes(trained)
    outcome = call(command, *QUIET, f"--ckpt_path={file}")
    assert_one_error(outcome, f"checkpoint {file} cannot be used: prompt has 1 NaN or infinite values of 128")
    assert hashes(trained) == before


@pytest.mark.parametrize("section", ["optimizer", "early stopping"])
def test_a_damaged_training_state_is_not_resumed(section: str, trained: Path) -> None:
    file = trained / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    if section == "optimizer":
        checkpoint["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(1)
    else:
        states = checkpoint["callbacks"]
        next(state for key, state in states.items() if key.startswith("Early"))["wait_count"] = 1.5
    torch.save(checkpoint, file)
    outcome = call("fit", *QUIET, f"--ckpt_path={file}", "--trainer.max_steps=8")
    assert_one_error(outcome, "the checkpoint is damaged: ")
    assert torch.load(file, weights_only=True)["global_step"] == 4

"""NaN and infinity end a run in one line, and never reach a checkpoint."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.backbone.model import Backbone
from lightning_modules.base import SoftPromptModule
from tests.cli.test_mistakes import assert_one_error, hashes
from tests.tiny_folder import QUIET, Outcome, call

Checkpoint = dict[str, Any]


def assert_failure(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 1, outcome.err
    (line,) = outcome.errors
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in line


def saved(run: Path) -> list[int]:
    """Steps of best and last checkpoint, whose numbers are all finite."""
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
    """NaN in the prompt once a step is done."""

    def after(self: SoftPromptModule, *args: Any) -> None:
        if self.trainer.global_step == at:
            self.prompt.data.fill_(math.nan)

    return after


CAUSES = [
    "likely causes are the learning rate (--model.optimizer.lr 0.001)",
    "the precision (--trainer.precision 32-true, --backbone.dtype float32)",
    "the weights of backbone '",
    "the checkpoints written before it are kept",
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
def test_what_the_last_step_has_broken_is_not_saved(
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
    """Every second validation batch has a NaN loss, from the step on that is put into the list."""
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

    monkeypatch.setattr("lightning_modules.evaluation.generate", broken)
    outcome = call("test", *QUIET, f"--ckpt_path={trained}")
    assert_failure(outcome, "logits are not finite in 6 test examples: likely causes are the precision (")
    outcome = call("predict", *QUIET, f"--ckpt_path={trained}", stdin="a\nb\n")
    assert_failure(outcome, "logits are not finite in 2 predict examples: ")
    assert outcome.out == ""


def put(path: str, value: Any) -> Callable[[Checkpoint], None]:
    """Change one entry of a checkpoint, named as keys and indices with slashes between them."""

    def change(checkpoint: Any) -> None:
        *keys, last = (int(key) if key.isdigit() else key for key in path.split("/"))
        for key in keys:
            checkpoint = checkpoint[key]
        if isinstance(checkpoint[last], torch.Tensor) and isinstance(value, float):
            checkpoint[last].fill_(value)
        else:
            checkpoint[last] = value

    return change


MOMENT = "optimizer_states/0/state/0/exp_avg"
DAMAGED = [
    ("state_dict/prompt", math.nan, "prompt has 128 NaN or infinite values of 128"),
    ("state_dict/prompt", -math.inf, "prompt has 128 NaN or infinite values of 128"),
    ("state_dict/prompt", "x", "prompt in state_dict must be a tensor"),
    (MOMENT, math.nan, "the optimizer's exp_avg has 128 NaN or infinite values of 128"),
    (f"{MOMENT}_sq", math.inf, "the optimizer's exp_avg_sq has 128 NaN or infinite values of 128"),
    ("optimizer_states/0/param_groups/0/lr", math.inf, "the optimizer's lr must be finite and >= 0, got inf"),
    ("optimizer_states/0/param_groups/0/lr", "1", "the optimizer's lr must be finite and >= 0, got '1'"),
    ("optimizer_states/0/param_groups/0/initial_lr", -1.0, "initial_lr must be finite and >= 0, got -1.0"),
    ("optimizer_states/0/param_groups", 3, "param_groups must be a list, got 3"),
    ("optimizer_states", [None], "optimizer_states must hold mappings"),
    ("lr_schedulers/0", {"base_lrs": [math.nan]}, "base_lrs must be finite and >= 0, got nan"),
    ("lr_schedulers/0", {"base_lrs": [math.inf]}, "base_lrs must be finite and >= 0, got inf"),
    ("lr_schedulers/0", {"_last_lr": [-1]}, "_last_lr must be finite and >= 0, got -1"),
]
DAMAGED_FOR_FIT = [
    ("optimizer_states/0/state", {}, None),  # what SGD's would be: AdamW begins its moments anew
    ("optimizer_states/0/state/0/exp_avg", torch.zeros(1), "exp_avg must have shape (4, 32)"),
    ("optimizer_states/0/state/0/step", torch.tensor(0.0), "step must be >= 1"),
    ("optimizer_states/0/state/0/exp_avg_sq", -1.0, "exp_avg_sq must be >= 0"),
    ("optimizer_states/0/state", {7: {}}, "optimizer state is of other parameters"),
    ("optimizer_states/0/param_groups/0/params", [0, 1], "optimizer state is of other parameters"),
    ("lr_schedulers/0", {"last_epoch": "4", "_step_count": 5}, "the schedule's last_epoch must be"),
    ("lr_schedulers/0", {"last_epoch": 4, "_step_count": -5}, "the schedule's _step_count must be"),
    ("callbacks", [1], "callbacks must be a mapping, got [1]"),
]
STATES = [
    ("ModelCheckpoint", "best_model_score", "low", "best_model_score must be a number, got 'low'"),
    ("ModelCheckpoint", "best_model_score", math.nan, "best_model_score must be a number, got nan"),
    ("ModelCheckpoint", "best_model_score", -math.inf, "best_model_score must be finite, got -inf"),
    ("ModelCheckpoint", "best_model_score", torch.zeros(2), "best_model_score must be a number"),
    ("EarlyStopping", "wait_count", 1.5, "wait_count must be an integer >= 0, got 1.5"),
    ("EarlyStopping", "stopped_epoch", -1, "stopped_epoch must be an integer >= 0, got -1"),
    ("EarlyStopping", "best_score", -math.inf, "best_score must be finite or inf, got -inf"),
    ("EarlyStopping", "best_score", {}, "best_score must be a number, got {}"),
    ("EarlyStopping", None, 3, "must be a mapping"),
]


def altered(run: Path, change: Callable[[Checkpoint], None]) -> Path:
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize(("path", "value", "message"), DAMAGED)
def test_a_damaged_checkpoint_is_refused(
    path: str, value: Any, message: str, command: str, trained: Path
) -> None:
    file = altered(trained, put(path, value))
    before = hashes(trained)
    assert_one_error(call(command, *QUIET, f"--ckpt_path={file}"), message)
    assert hashes(trained) == before


def state_change(name: str, key: str | None, value: Any) -> Callable[[Checkpoint], None]:
    def change(checkpoint: Checkpoint) -> None:
        states = checkpoint["callbacks"]
        full = next(full for full in states if full.startswith(name) and "val/loss" in full)
        if key is None:
            states[full] = value
        else:
            states[full][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((put(path, value), message) for path, value, message in DAMAGED_FOR_FIT),
        *((state_change(name, key, value), message) for name, key, value, message in STATES),
    ],
)
def test_a_damaged_training_state_is_not_resumed(
    change: Callable[[Checkpoint], None], message: str | None, trained: Path
) -> None:
    file = altered(trained, change)
    outcome = call("fit", *QUIET, f"--ckpt_path={file}", "--trainer.max_steps=5")
    if message is None:
        assert outcome.code == 0, outcome.err
    else:
        assert_one_error(outcome, message)

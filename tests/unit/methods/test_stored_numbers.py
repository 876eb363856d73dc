"""Invalid numbers in a checkpoint are refused in one line that names them."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

from promptstage.lightning_modules.checkpoint_callbacks import restored_states
from promptstage.lightning_modules.checkpoint_numbers import stored_random_state
from promptstage.lightning_modules.checkpoints import read_checkpoint
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.utilities.errors import UserError

Checkpoint = dict[str, Any]


def trained_states(steps: int = 3) -> tuple[Any, Any, Any]:
    """AdamW, its schedule and the checkpoint of a prompt of 4 vectors."""
    parameter = torch.nn.Parameter(torch.ones(4, 32))
    optimizer, schedule = OptimizerConfig().build([parameter], 10)
    for _ in range(steps):
        parameter.grad = torch.ones(4, 32)
        optimizer.step()
        schedule.step()
    checkpoint = {
        "promptstage": {
            "format": 1,
            "method": "PromptTuning",
            "backbone": {"name": "embedded"},
            "fingerprint": "",
            "structure": {},
        },
        "rng": torch.get_rng_state(),
        "state_dict": {"prompt": parameter.data},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
    }
    return optimizer, schedule, checkpoint


def put(checkpoint: Any, path: str, value: Any) -> None:
    """Change one entry, named as keys and indices with slashes between them."""
    *keys, last = (int(key) if key.isdigit() else key for key in path.split("/"))
    for key in keys:
        checkpoint = checkpoint[key]
    if isinstance(value, float) and isinstance(checkpoint[last], torch.Tensor):
        value = torch.full_like(checkpoint[last], value)
    checkpoint[last] = value


MOMENT = "optimizer_states/0/state/0/exp_avg"
RATE = "optimizer_states/0/param_groups/0/lr"
DAMAGED = [
    ("state_dict/prompt", math.nan, "prompt has 128 NaN or infinite values of 128"),
    ("state_dict/prompt", -math.inf, "prompt has 128 NaN or infinite values of 128"),
    ("state_dict/prompt", "x", "prompt in state_dict must be a tensor"),
    (MOMENT, math.nan, "the optimizer's exp_avg has 128 NaN or infinite values of 128"),
    (f"{MOMENT}_sq", math.inf, "the optimizer's exp_avg_sq has 128 NaN or infinite values of 128"),
    (RATE, math.inf, "the optimizer's lr must be finite and >= 0, got inf"),
    (RATE, "1", "the optimizer's lr must be finite and >= 0, got '1'"),
    ("optimizer_states/0/param_groups/0/initial_lr", -1.0, "initial_lr must be finite and >= 0, got -1.0"),
    ("optimizer_states/0/param_groups", 3, "param_groups must be a list, got 3"),
    ("optimizer_states", [None], "optimizer_states must hold mappings"),
    ("lr_schedulers/0", {"base_lrs": [math.nan]}, "base_lrs must be finite and >= 0, got nan"),
    ("lr_schedulers/0", {"base_lrs": [math.inf]}, "base_lrs must be finite and >= 0, got inf"),
    ("lr_schedulers/0", {"_last_lr": [-1]}, "_last_lr must be finite and >= 0, got -1"),
    ("lr_schedulers/0", {"_last_lr": [10**400]}, "_last_lr is an integer of 1329 bits"),
    (
        "state_dict/prompt",
        torch.zeros(1).expand(2**40),
        "prompt has shape (1099511627776,), more than the file",
    ),
    ("state_dict/prompt", torch.eye(4).to_sparse(), "prompt is not a dense tensor"),
    ("MixedPrecision", {"scale": math.inf}, "the loss scaling's scale must be finite and positive, got inf"),
    ("MixedPrecision", {"scale": 0.0}, "the loss scaling's scale must be finite and positive, got 0.0"),
]
MOMENTS = [
    ("state/0/exp_avg", torch.zeros(1), "exp_avg must have shape (4, 32)"),
    ("state/0/step", torch.tensor(0.0), "step must be >= 1"),
    ("state/0/exp_avg_sq", -1.0, "exp_avg_sq must be >= 0"),
    ("state", {7: {}}, "optimizer state belongs to other parameters"),
    ("param_groups/0/params", [0, 1], "optimizer state belongs to other parameters"),
]
POSITIONS = [
    ({"last_epoch": "4", "_step_count": 5}, "the schedule's last_epoch must be >= 0, got '4'"),
    ({"last_epoch": 4, "_step_count": -5}, "the schedule's _step_count must be >= 0, got -5"),
    ({"last_epoch": 10**400, "_step_count": 5}, "last_epoch must be >= 0, got an integer over 53 bits"),
    ({}, "last_epoch must be >= 0, got None"),
]
STATES = [
    ("ModelCheckpoint", "best_model_score", "low", "best_model_score must be a number, got 'low'"),
    ("ModelCheckpoint", "best_model_score", math.nan, "best_model_score must be a number, got nan"),
    ("ModelCheckpoint", "best_model_score", -math.inf, "best_model_score must be finite, got -inf"),
    ("ModelCheckpoint", "best_model_score", torch.zeros(2), "best_model_score must be a number"),
    ("EarlyStopping", "wait_count", 1.5, "wait_count must be an integer >= 0, got 1.5"),
    ("EarlyStopping", "stopped_epoch", -1, "stopped_epoch must be an integer >= 0, got -1"),
    ("EarlyStopping", "best_score", -math.inf, "best_score must be finite or inf, got -inf"),
    ("EarlyStopping", "best_score", {}, "best_score must be a number, got a dict"),
    ("EarlyStopping", None, 3, "must be a mapping"),
    ("Timer", "time_elapsed", [1], "time_elapsed must be a mapping"),
    ("Timer", "time_elapsed", {"train": "long"}, "train must be a number, got 'long'"),
]


@pytest.mark.parametrize(("path", "value", "message"), DAMAGED)
def test_invalid_numbers_are_refused(path: str, value: Any, message: str, tmp_path: Path) -> None:
    checkpoint = trained_states()[2]
    file = tmp_path / "last.ckpt"
    torch.save(checkpoint, file)
    read_checkpoint(file)
    put(checkpoint, path, value)
    torch.save(checkpoint, file)
    with pytest.raises(UserError) as caught:
        read_checkpoint(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("path", "value", "message"), MOMENTS)
def test_moments_of_other_parameters_are_refused(path: str, value: Any, message: str) -> None:
    optimizer, _, checkpoint = trained_states()
    state = checkpoint["optimizer_states"][0]
    put(state, path, value)
    with pytest.raises(UserError) as caught:
        optimizer.load_state_dict(state)
    assert message in str(caught.value)


@pytest.mark.parametrize(("state", "message"), POSITIONS)
def test_invalid_schedule_positions_are_refused(state: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained_states()[1].load_state_dict(state)


@pytest.mark.parametrize("state", [None, torch.zeros(3), [1], torch.zeros(5056)])
def test_invalid_random_states_are_refused(state: object) -> None:
    with pytest.raises(UserError, match="rng must be the state of a random number generator, got "):
        stored_random_state(state)
    assert torch.equal(stored_random_state(torch.get_rng_state()), torch.get_rng_state())


def callbacks(folder: Path) -> list[Any]:
    return [
        ModelCheckpoint(folder, filename="best", monitor="val/loss"),
        EarlyStopping("val/loss"),
        Timer("00:01:00:00"),
    ]


@pytest.mark.parametrize(("name", "key", "value", "message"), STATES)
def test_invalid_callback_states_are_refused(
    name: str, key: str | None, value: Any, message: str, tmp_path: Path
) -> None:
    made = callbacks(tmp_path)
    trainer: Any = SimpleNamespace(callbacks=made)
    states: dict[str, Any] = {callback.state_key: callback.state_dict() for callback in made}
    restored_states(states, trainer)
    full = next(full for full in states if full.startswith(name))
    states[full] = value if key is None else states[full] | {key: value}
    with pytest.raises(UserError, match=message):
        restored_states(states, trainer)


def test_missing_states_are_accepted() -> None:
    trainer: Any = SimpleNamespace(callbacks=[])
    assert restored_states(None, trainer) == {}
    with pytest.raises(UserError, match="callbacks must be a mapping, got a list"):
        restored_states([1], trainer)

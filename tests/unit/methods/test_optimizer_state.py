"""Loading optimizer and schedule restores moments and position; hyperparameters stay as configured."""

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.utilities.errors import UserError

FIRST = OptimizerConfig(lr=0.1, weight_decay=0.0, betas=(0.9, 0.99), warmup_steps=2, schedule="cosine")
SECOND = OptimizerConfig(lr=0.7, weight_decay=0.2, betas=(0.5, 0.75), warmup_steps=6, schedule="linear")


def gradient(step: int) -> torch.Tensor:
    return torch.linspace(-1, 1, 6).roll(step)


def train(config: OptimizerConfig, parameter: torch.nn.Parameter, steps: range, states: Any = None) -> Any:
    """Return optimizer and schedule states after the steps, starting from ``states``."""
    optimizer, schedule = config.build([parameter], 20)
    if states is not None:
        optimizer.load_state_dict(states[0])
        schedule.load_state_dict(states[1])
    for step in steps:
        parameter.grad = gradient(step)
        optimizer.step()
        schedule.step()
    return optimizer.state_dict(), schedule.state_dict()


def test_a_resume_is_bit_identical() -> None:
    whole, halves = (torch.nn.Parameter(torch.ones(6)) for _ in range(2))
    train(FIRST, whole, range(8))
    states = train(FIRST, halves, range(3))
    train(FIRST, halves, range(3, 8), states)
    assert torch.equal(whole, halves)


def test_new_hyperparameters_apply_from_the_first_step() -> None:
    parameter = torch.nn.Parameter(torch.ones(6))
    states = train(FIRST, parameter, range(3))
    first, second = states[0]["state"][0]["exp_avg"].clone(), states[0]["state"][0]["exp_avg_sq"].clone()
    start = parameter.detach().clone()
    train(SECOND, parameter, range(3, 4), states)
    # AdamW (Loshchilov and Hutter 2019) with the second configuration, by hand; step 4 of a warm-up of 6.
    rate = 0.7 * 4 / 7
    first = 0.5 * first + 0.5 * gradient(3)
    second = 0.75 * second + 0.25 * gradient(3) ** 2
    update = (first / (1 - 0.5**4)) / ((second / (1 - 0.75**4)).sqrt() + 1e-8)
    expected = start * (1 - rate * 0.2) - rate * update
    assert torch.allclose(parameter.detach(), expected, atol=1e-6)


def test_states_of_plain_schedules_load() -> None:
    """Earlier checkpoints hold LambdaLR's whole state."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(6))], lr=0.1)
    plain = LambdaLR(optimizer, lambda step: 1.0)
    for _ in range(3):
        optimizer.step()
        plain.step()
    ours, schedule = SECOND.build([torch.nn.Parameter(torch.ones(6))], 20)
    schedule.load_state_dict(plain.state_dict())
    assert schedule.last_epoch == 3
    assert ours.param_groups[0]["lr"] == schedule.get_last_lr()[0] == 0.7 * 4 / 7
    assert schedule.base_lrs == [0.7]


def test_a_state_holds_no_rates() -> None:
    _, state = train(FIRST, torch.nn.Parameter(torch.ones(6)), range(3))
    assert state == {"last_epoch": 3, "_step_count": 4}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("lr", 1e38),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("betas", (float("nan"), 0.9)),
    ],
)
def test_invalid_hyperparameters_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"optimizer {name} must be"):
        OptimizerConfig(**{name: value})

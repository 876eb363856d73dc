"""Non-finite losses and gradients end a fit, except while float16's loss scaling adapts."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from promptstage.lightning_modules.finiteness import check_step, gradients_overflow
from promptstage.utilities.errors import RunFailure
from tests.unit.backbone.tiny import method, tiny_backbone


def module(scale: float | None = None) -> Any:
    prompt = method("prompt", tiny_backbone("llama"))
    scaler = None if scale is None else SimpleNamespace(get_scale=lambda: scale)
    plugin = SimpleNamespace(scaler=scaler)
    prompt._trainer = SimpleNamespace(precision_plugin=plugin, precision="16-mixed", global_step=3)
    return prompt


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("scale", [None, 65536.0])
def test_a_loss_that_is_not_finite_is_a_failure(loss: float, scale: float | None) -> None:
    with pytest.raises(
        RunFailure, match=f"the training loss is {loss} in step 4: .*--trainer.precision 16-mixed"
    ):
        check_step(module(scale), loss, overflow=False)


def test_loss_scaling_skips_steps_until_its_scale_is_one() -> None:
    """With float16 the first steps overflow until a scale is found."""
    check_step(module(65536.0), 2.0, overflow=True)
    for scale in (1.0, 0.5, None):
        with pytest.raises(RunFailure, match="the gradient is not finite in step 4: "):
            check_step(module(scale), 2.0, overflow=True)


@pytest.mark.parametrize(
    ("values", "overflow"),
    [([1.0, 2.0], False), ([1.0, math.nan], True), ([-math.inf, 0.0], True), ([0.0, 0.0], False)],
)
def test_any_gradient_counts(values: list[float], overflow: bool) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
    for parameter, value in zip(parameters, values, strict=False):
        parameter.grad = torch.full((3,), value)  # the third has none
    assert bool(gradients_overflow(parameters)) == overflow

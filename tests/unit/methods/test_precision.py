"""Trained parameters and AdamW's moments are float32."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch

from promptstage.lightning_modules.precision import check_precision, check_trained_dtypes
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import METHODS, method, tiny_backbone


@pytest.mark.parametrize("precision", [None, 32, "32", "32-true", "bf16", "bf16-mixed", 16, "16", "16-mixed"])
def test_allowed(precision: object) -> None:
    check_precision(precision)


@pytest.mark.parametrize(
    "precision",
    ["bf16-true", "16-true", "64-true", 64, "64", "transformer-engine", "transformer-engine-float16"],
)
def test_other_precisions_are_refused_with_what_to_use(precision: object) -> None:
    with pytest.raises(UserError, match=f"one of 32-true, bf16-mixed, 16-mixed, got {precision}: ") as caught:
        check_precision(precision, "cpu")
    assert "--backbone.dtype bfloat16 --trainer.precision bf16-mixed" in str(caught.value)


def test_float16_arithmetic_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    check_precision("16-mixed", "cuda")
    for there, accelerators in (
        (False, ["cpu", "auto", L.pytorch.accelerators.CPUAccelerator()]),
        (True, ["cpu"]),
    ):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda there=there: there)
        for accelerator in accelerators:
            with pytest.raises(UserError, match="16-mixed needs a GPU: use --trainer"):
                check_precision("16-mixed", accelerator)
    check_precision("16-mixed", "auto")


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pretrained"])
def test_parameters_and_moments_are_float32_over_a_bfloat16_backbone(name: str) -> None:
    backbone = tiny_backbone("llama")
    backbone.model.to(torch.bfloat16)
    module = method(name, backbone)
    module._trainer = SimpleNamespace(estimated_stepping_batches=10)
    optimizer = module.configure_optimizers()["optimizer"]
    parameters = module.trained_parameters()
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    assert {moment.dtype for moment in moments} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_parameter_is_refused(dtype: torch.dtype) -> None:
    module = method("prompt", tiny_backbone("llama")).to(dtype)
    module._trainer = SimpleNamespace(estimated_stepping_batches=10)
    with pytest.raises(UserError, match="trained parameter prompt must be float32, got "):
        module.configure_optimizers()


def test_frozen_parameters_may_be_half_precision() -> None:
    layer = torch.nn.Linear(2, 2).half().requires_grad_(False)
    check_trained_dtypes(layer.named_parameters())

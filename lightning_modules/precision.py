"""Checks of the precision: trained parameters are float32, whatever the backbone's dtype."""

from collections.abc import Iterable

import torch

from promptstage.utilities.errors import UserError

ALLOWED = ("32-true", "bf16-mixed", "16-mixed")
_SHORT = {"None": "32-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


def check_precision(precision: object, accelerator: object = None) -> None:
    """Check that a trainer's precision leaves trained parameters in float32.

    Args:
        precision: Lightning's name or number.
        accelerator: Lightning's name or object; None if it is not known.

    Raises:
        UserError: for half, double or 8-bit parameters, and for float16 arithmetic without a GPU.
    """
    name = _SHORT.get(str(precision), str(precision))
    if name not in ALLOWED:
        raise UserError(
            f"trainer.precision must be one of {', '.join(ALLOWED)}, got {precision}: prompts are trained in "
            "float32 (for half-precision weights: --backbone.dtype bfloat16 --trainer.precision bf16-mixed)"
        )
    if name == "16-mixed" and accelerator is not None and _is_cpu(accelerator):
        raise UserError(
            "trainer.precision 16-mixed needs a GPU: use --trainer.precision bf16-mixed or 32-true on the CPU"
        )


def _is_cpu(accelerator: object) -> bool:
    if accelerator == "auto":
        return not torch.accelerator.is_available()
    return accelerator == "cpu" or type(accelerator).__name__ == "CPUAccelerator"


def check_trained_dtypes(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
    """Check that no trained parameter is narrower than float32.

    Raises:
        UserError: naming the first parameter that is.
    """
    for name, parameter in parameters:
        if parameter.requires_grad and parameter.dtype.itemsize < torch.float32.itemsize:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise UserError(f"trained parameter {name} must be float32, got {dtype}: updates would be lost")

"""Checks of the numbers in a checkpoint: trained tensors, AdamW's moments, learning rates and counts."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from promptstage.utilities.errors import UserError

LARGEST_COUNT = 2**53  # floats represent larger integers inexactly


def to_float(value: object) -> float:
    """Convert a real number or a tensor with one element to a float; NaN for anything else."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def is_rate(value: object) -> bool:
    """Return whether ``value`` is finite and not negative."""
    return math.isfinite(to_float(value)) and to_float(value) >= 0


def is_count(value: object) -> bool:
    """Return whether ``value`` is an integer from 0 to ``LARGEST_COUNT``."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def short_repr(value: object) -> str:
    """Describe ``value`` for a one-line message: short scalars literally, else the type."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, int) and abs(value) > LARGEST_COUNT:
        return "an integer over 53 bits"
    if value is None or isinstance(value, int | float | str):
        return repr(value)[:40]
    return f"a {type(value).__name__}"


def check_numbers(checkpoint: Mapping[str, Any], name: str) -> None:
    """Check that nothing in a checkpoint is NaN or infinite and that learning rates are not negative.

    Args:
        name: of the checkpoint, for the message.

    Raises:
        UserError: naming the first invalid number, or a section that does not hold numbers.
    """
    if problem := first_non_finite(checkpoint) or _first_bad_rate(checkpoint):
        raise UserError(f"{name} cannot be used: {problem}")


def stored_random_state(state: object) -> Tensor:
    """Check and return the random number generator's state in a checkpoint.

    Raises:
        UserError: if it is not such a state.
    """
    try:
        torch.Generator().set_state(state)  # type: ignore[arg-type]  # anything may stand there
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint is damaged: rng must be the state of a random number generator, "
            f"got {short_repr(state)}"
        ) from error
    assert isinstance(state, Tensor)
    return state


def first_non_finite(checkpoint: Mapping[str, Any]) -> str:
    """Describe the first tensor of model or optimizer with NaN or infinite values; empty if there is none."""
    for name, tensor in [*_model_tensors(checkpoint), *_optimizer_tensors(checkpoint)]:
        finite = _finite(name, tensor)
        if not finite.all():
            wrong = finite.numel() - int(finite.sum())
            return f"{name} has {wrong} NaN or infinite values of {finite.numel()}"
    return ""


def _finite(name: str, tensor: Tensor) -> Tensor:
    """Return which values of a dense tensor are finite: a bool tensor of its shape.

    Raises:
        UserError: if the tensor is sparse or quantized, or an expanded view of fewer values.
    """
    size = tensor.numel() * tensor.element_size()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.untyped_storage().nbytes() < size:
        raise UserError(f"the checkpoint is damaged: {name} must be a dense tensor")
    return (tensor if tensor.element_size() > 1 else tensor.float()).isfinite()


def _model_tensors(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    state = _section(checkpoint, "state_dict", Mapping, {})
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"the checkpoint is damaged: {name} in state_dict must be a tensor")
        yield name, tensor


def _optimizer_tensors(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for optimizer in _mappings(checkpoint, "optimizer_states"):
        states = _section(optimizer, "state", Mapping, {})
        for index in states:
            for name, value in _section(states, index, Mapping, {}).items():
                if isinstance(value, Tensor):
                    yield f"the optimizer's {name}", value


def _first_bad_rate(checkpoint: Mapping[str, Any]) -> str:
    for optimizer in _mappings(checkpoint, "optimizer_states"):
        for group in _mappings(optimizer, "param_groups"):
            for name in ("lr", "initial_lr"):
                if name in group and not is_rate(group[name]):
                    return f"the optimizer's {name} must be finite and >= 0, got {short_repr(group[name])}"
    for scheduler in _mappings(checkpoint, "lr_schedulers"):
        for name in ("base_lrs", "_last_lr"):
            for rate in _section(scheduler, name, list, []):
                if not is_rate(rate):
                    return f"the scheduler's {name} must be finite and >= 0, got {short_repr(rate)}"
    for name, value in _section(checkpoint, "MixedPrecision", Mapping, {}).items():
        if not is_rate(value) or (name == "scale" and not to_float(value)):
            return f"the loss scaling's {name} must be finite and positive, got {short_repr(value)}"
    return ""


def _mappings(section: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    entries = _section(section, key, list, [])
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise UserError(f"the checkpoint is damaged: {key} must hold mappings")
    return entries


def _section(section: Mapping[Any, Any], key: Any, kind: type, default: Any) -> Any:
    value = section.get(key, default)
    if not isinstance(value, kind):
        raise UserError(
            f"the checkpoint is damaged: {key} must be a {kind.__name__.lower()}, got {short_repr(value)}"
        )
    return value

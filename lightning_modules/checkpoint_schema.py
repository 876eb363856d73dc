"""What a checkpoint may hold: plain values and dense tensors of known names, types and shapes.

A checkpoint may come from somebody else. Nothing in it is executed (``weights_only``); here its contents are
checked before anything relies on them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from utilities.errors import UserError
from utilities.reading import validated

if TYPE_CHECKING:
    import lightning as L

    from lightning_modules.base import SoftPromptModule

MOST_VALUES = 1_000_000
MOST_LEVELS = 32
LONGEST_TEXT = 4 << 20  # characters

# Entries of a checkpoint, and what they must be; those of a prompt, and those that Lightning adds.
PROMPT: dict[str, tuple[type, str]] = {
    "promptstage": (Mapping, "a mapping"),
    "state_dict": (Mapping, "a mapping"),
    "rng": (Tensor, "a tensor"),
}
TRAINING: dict[str, tuple[type, str]] = {
    "callbacks": (Mapping, "a mapping"),
    "loops": (Mapping, "a mapping"),
    "optimizer_states": (list, "a list"),
    "lr_schedulers": (list, "a list"),
    "epoch": (int, "an integer"),
    "global_step": (int, "an integer"),
    "pytorch-lightning_version": (str, "a text"),
}


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about itself.

    Attributes:
        format: of the checkpoint.
        method: name of the method's class.
        backbone: its :class:`BackboneConfig` as plain values.
        fingerprint: of the backbone.
        structure: what the method must agree on (see ``SoftPromptModule.structure``).
    """

    format: int
    method: str
    backbone: dict[str, Any]
    fingerprint: str
    structure: dict[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.backbone.get("name"), str):
            raise ValueError("field 'backbone': it has no name")


def check_contents(checkpoint: Mapping[str, Any], where: str) -> None:
    """Check that a checkpoint holds plain values and dense tensors, under the names that are relied on.

    Raises:
        UserError: naming ``where`` and the first entry that is not as it must be.
    """
    _Plain(where).check(checkpoint)
    for name, (kind, expected) in (PROMPT | TRAINING).items():
        if name not in checkpoint:
            if name in PROMPT:
                raise UserError(f"{where} has no entry '{name}'")
            continue
        value = checkpoint[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{where}: entry '{name}' must be {expected}, not {type(value).__name__}")
        if isinstance(value, int) and not 0 <= value < 1 << 53:
            raise UserError(f"{where}: entry '{name}' is {value}, which is no count")
    if not isinstance(checkpoint.get("config", ""), str):  # it is not there when no command wrote the file
        raise UserError(f"{where}: entry 'config' must be a text")
    for name, value in checkpoint["state_dict"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{where}: entry 'state_dict' must hold tensors by name, not {name!r:.60}")
    for name, value in checkpoint.get("callbacks", {}).items():
        if not isinstance(name, str) or not isinstance(value, Mapping):
            raise UserError(f"{where}: entry 'callbacks' must hold mappings by name, not {name!r:.60}")
    rng, own = checkpoint["rng"], torch.get_rng_state()
    if rng.dtype != own.dtype or rng.shape != own.shape:
        raise UserError(f"{where}: entry 'rng' is not a state of the random number generator")
    version = checkpoint.get("pytorch-lightning_version", "2.6.0")
    if not re.fullmatch(r"[2-9]\.\d{1,4}\.\d{1,4}[\w.+-]{0,40}", version):
        raise UserError(f"{where} names no version of Lightning that can be read")
    validated(Description, dict(checkpoint["promptstage"]), f"{where}: entry 'promptstage'")


def check_complete(checkpoint: Mapping[str, Any], where: str) -> None:
    """Check that all that Lightning reads is there.

    Raises:
        UserError: naming ``where`` and the first entry that is missing.
    """
    for name in TRAINING:
        if name not in checkpoint:
            raise UserError(f"{where} has no entry '{name}'")


class _Plain:
    """Walk over nested values with a limit: shared parts, which cost a file nothing, count each time."""

    def __init__(self, where: str) -> None:
        self.where, self.left = where, MOST_VALUES

    def check(self, value: Any, path: str = "", level: int = 0) -> None:
        self.left -= 1
        if self.left < 0 or level > MOST_LEVELS:
            raise UserError(f"{self.where} holds more, or more deeply nested, values than a checkpoint may")
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str | int) or len(str(key)) > 1000:
                    raise UserError(f"{self.where}: {path or 'it'} has a key that is no name: {key!r:.60}")
                self.check(inner, f"{path}.{key}" if path else str(key), level + 1)
        elif isinstance(value, list | tuple):
            for inner in value:
                self.check(inner, path, level + 1)
        elif isinstance(value, Tensor):
            self._tensor(value, path)
        elif isinstance(value, str):
            if len(value) > LONGEST_TEXT:
                raise UserError(f"{self.where}: {path} is a text of {len(value)} characters")
        elif isinstance(value, int):
            if value.bit_length() > 64:
                raise UserError(f"{self.where}: {path} is an integer of {value.bit_length()} bits")
        elif not isinstance(value, float | None):
            raise UserError(f"{self.where}: {path} is a {type(value).__name__}, which no checkpoint holds")

    def _tensor(self, value: Tensor, path: str) -> None:
        plain = type(value) in (Tensor, Parameter) and value.layout == torch.strided
        # A view of a few bytes can claim any size; it would take that size at the first operation.
        if not plain or value.device.type != "cpu" or value.is_quantized:
            raise UserError(f"{self.where}: {path} is not a dense tensor")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f"{self.where}: {path} claims {tuple(value.shape)}, more than the file holds")


def check_training_state(
    module: "SoftPromptModule", checkpoint: Mapping[str, Any], trainer: "L.Trainer"
) -> None:
    """Check progress, optimizer and scheduler states against those that a new fit of ``module`` has.

    Raises:
        UserError: naming the first part that differs in names, types or shapes.
    """
    parameters = module.trained_parameters()
    optimizer, schedule = module.optimizer_config.build([Parameter(torch.zeros(1))], 1.0)
    _one(checkpoint["lr_schedulers"], "lr_schedulers")
    _alike(checkpoint["lr_schedulers"], [schedule.state_dict()], "lr_schedulers")
    state = _one(checkpoint["optimizer_states"], "optimizer_states")
    group = dict(optimizer.state_dict()["param_groups"][0], params=list(range(len(parameters))))
    _alike(state.get("param_groups"), [group], "optimizer_states.param_groups")
    if state["param_groups"][0]["params"] != group["params"]:
        raise _differs("optimizer_states.param_groups.params")
    moments = state.get("state")
    if not isinstance(moments, Mapping) or not moments.keys() <= set(group["params"]):
        raise _differs("optimizer_states.state")
    for index, own in moments.items():
        expected = {name: torch.empty_like(parameters[index]) for name in ("exp_avg", "exp_avg_sq")}
        _alike(own, expected | {"step": torch.tensor(0.0)}, f"optimizer_states.state.{index}")
    # The position in the data is the loader's own affair.
    loops = {name: dict(own) for name, own in checkpoint["loops"].items() if isinstance(own, Mapping)}
    fit_loop = loops.get("fit_loop", {})
    if not isinstance(fit_loop.pop("state_dict", {}), Mapping):
        raise _differs("loops.fit_loop.state_dict")
    ours = trainer.fit_loop.state_dict()
    ours.pop("state_dict")
    _alike(fit_loop, ours, "loops.fit_loop")


def _one(states: Any, name: str) -> Mapping[str, Any]:
    if len(states) != 1 or not isinstance(states[0], Mapping):
        raise _differs(name)
    return states[0]


def _alike(theirs: Any, ours: Any, path: str) -> None:
    """Raise a UserError unless two states agree in structure: names, types, shapes, lengths."""
    if isinstance(ours, Mapping):
        if not isinstance(theirs, Mapping) or theirs.keys() != ours.keys():
            raise _differs(path)
        for key, own in ours.items():
            _alike(theirs[key], own, f"{path}.{key}")
    elif isinstance(ours, Sequence) and not isinstance(ours, str):
        if not isinstance(theirs, list | tuple) or len(theirs) != len(ours):
            raise _differs(path)
        for one, other in zip(theirs, ours, strict=True):
            _alike(one, other, path)
    elif isinstance(ours, Tensor):
        if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
            raise _differs(path)
    elif not _same_kind(theirs, ours):
        raise _differs(path)


def _same_kind(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, bool) or ours is None:
        return theirs is None or isinstance(theirs, bool)
    if isinstance(ours, int):
        return isinstance(theirs, int) and not isinstance(theirs, bool) and 0 <= theirs < 1 << 53
    return isinstance(theirs, int | float) if isinstance(ours, float) else type(theirs) is type(ours)


def _differs(path: str) -> UserError:
    return UserError(f"the checkpoint cannot be resumed: its entry '{path}' is not that of such a fit")

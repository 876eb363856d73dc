"""Closed schema of checkpoints: plain values and dense tensors of known names, types and shapes.

A checkpoint is untrusted data. Nothing in it is executed (``weights_only``); here its contents are checked
before anything relies on them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import Parameter

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.text_settings import TextSettings
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import validated

FORMAT = 1
MOST_VALUES = 1_000_000
MOST_LEVELS = 32
LONGEST_TEXT = 4 << 20  # characters

# Entries of a checkpoint and their types: ours, and those that Lightning adds.
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
    """Description that a checkpoint gives of itself.

    Attributes:
        format: of the checkpoint.
        method: name of the method's class.
        backbone: its :class:`BackboneConfig` as plain values.
        fingerprint: of the backbone.
        structure: of the method (see ``PromptModule.structure``).
        arguments: of the method's constructor as plain values, without the backbone. None before version 0.2,
            and for methods whose arguments are not plain.
        text: how questions are rendered and generations end; None before version 0.2.
    """

    format: int
    method: str
    backbone: dict[str, Any]
    fingerprint: str
    structure: dict[str, Any]
    arguments: dict[str, Any] | None = None
    text: TextSettings | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.backbone.get("name"), str):
            raise ValueError("field 'backbone': it has no name")

    def backbone_config(self, where: str) -> BackboneConfig:
        """Return the backbone's configuration, without permission to run code that comes with the model.

        Raises:
            UserError: naming ``where``, if a value is invalid.
        """
        values = self.backbone | {"trust_remote_code": False}
        return validated(BackboneConfig, values, f"{where}: backbone")


def check_contents(checkpoint: Mapping[str, Any], where: str) -> None:
    """Check that a checkpoint holds plain values and dense tensors, with all required entries.

    Raises:
        UserError: naming ``where`` and the first invalid entry.
    """
    _Plain(where).check(checkpoint)
    for name, (kind, expected) in (PROMPT | TRAINING).items():
        if name not in checkpoint:
            if name in PROMPT:
                raise UserError(f"{where} has no entry '{name}'")
            continue
        value = checkpoint[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{where}: entry '{name}' must be {expected}, got {type(value).__name__}")
        if isinstance(value, int) and not 0 <= value < 1 << 53:
            raise UserError(f"{where}: entry '{name}' must be >= 0 and < 2**53, got {value}")
    if not isinstance(checkpoint.get("config", ""), str):  # absent in checkpoints written from Python
        raise UserError(f"{where}: entry 'config' must be a text")
    for name, value in checkpoint.get("callbacks", {}).items():
        if not isinstance(name, str) or not isinstance(value, Mapping):
            raise UserError(f"{where}: entry 'callbacks' must hold mappings by name, got {name!r:.60}")
    version = checkpoint.get("pytorch-lightning_version", "2.6.0")
    if not re.fullmatch(r"[2-9]\.\d{1,4}\.\d{1,4}[\w.+-]{0,40}", version):
        raise UserError(f"{where} has no valid pytorch-lightning_version")
    described(checkpoint, where)


def described(checkpoint: Mapping[str, Any], where: str) -> Description:
    """Return a checkpoint's description of itself.

    Raises:
        UserError: naming ``where`` and the first field that is missing or invalid.
    """
    return validated(Description, dict(checkpoint["promptstage"]), f"{where}: entry 'promptstage'", FORMAT)


def check_complete(checkpoint: Mapping[str, Any], where: str) -> None:
    """Check that a checkpoint has all entries that Lightning reads.

    Raises:
        UserError: naming ``where`` and the first entry that is missing.
    """
    for name in TRAINING:
        if name not in checkpoint:
            raise UserError(f"{where} has no entry '{name}'")


class _Plain:
    """Bounded walk over nested values; shared parts, which cost a file nothing, count each time."""

    def __init__(self, where: str) -> None:
        self.where, self.left = where, MOST_VALUES

    def check(self, value: Any, path: str = "", level: int = 0) -> None:
        self.left -= 1
        if self.left < 0 or level > MOST_LEVELS:
            raise UserError(f"{self.where} must have at most {MOST_VALUES} values and {MOST_LEVELS} levels")
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str | int) or len(str(key)) > 1000:
                    raise UserError(f"{self.where}: {path or 'it'} has an invalid key: {key!r:.60}")
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
            raise UserError(
                f"{self.where}: {path} is a {type(value).__name__}, which checkpoints cannot hold"
            )

    def _tensor(self, value: Tensor, path: str) -> None:
        plain = type(value) in (Tensor, Parameter) and value.layout == torch.strided
        # A view of a few bytes can claim any size; it would take that size at the first operation.
        if not plain or value.device.type != "cpu" or value.is_quantized:
            raise UserError(f"{self.where}: {path} is not a dense tensor")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f"{self.where}: {path} has shape {tuple(value.shape)}, more than the file holds")


def check_progress(checkpoint: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Check that the progress in a checkpoint has the form of a new fit's; loaders check their own position.

    Raises:
        UserError: naming the first part that differs in names or types.
    """
    stored = checkpoint["loops"].get("fit_loop")
    if not isinstance(stored, Mapping) or not isinstance(stored.get("state_dict"), Mapping):
        raise _differs("loops.fit_loop")
    current = trainer.fit_loop.state_dict()
    for name, value in current.items():
        if name != "state_dict":
            _check_alike(stored.get(name), value, f"loops.fit_loop.{name}")
    if stored.keys() != current.keys():
        raise _differs("loops.fit_loop")


def _check_alike(stored: Any, current: Any, path: str) -> None:
    """Check that two states have the same names, and counts or truth values under them.

    Raises:
        UserError: naming the first part that differs.
    """
    if isinstance(current, Mapping):
        if not isinstance(stored, Mapping) or stored.keys() != current.keys():
            raise _differs(path)
        for key, value in current.items():
            _check_alike(stored[key], value, f"{path}.{key}")
    elif type(stored) is not type(current) or (isinstance(current, int) and not 0 <= stored < 1 << 53):
        raise _differs(path)


def _differs(path: str) -> UserError:
    return UserError(f"the checkpoint cannot be resumed: its entry '{path}' does not match this fit")

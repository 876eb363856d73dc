"""Interrupted tests: the records on disk, and the check that they belong to the test that continues them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

from promptstage.callbacks.examples import data_of
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.calls import decoder_faults
from promptstage.lightning_modules.decoding.records import Record
from promptstage.utilities.errors import UserError, shown_path
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import parse_object, read_bytes, read_typed, validated
from promptstage.utilities.recorded import recorded_settings, unrecorded
from promptstage.utilities.tensor_files import tensors_digest

IDENTITY_FILE = "evaluation.json"
LIMIT = 4 << 30  # bytes of a file of records


@dataclass(frozen=True)
class Identity:
    """Description of an evaluation, by which its records are recognized when it is resumed.

    Attributes:
        prompt: digest of the prompt's tensors.
        backbone: fingerprint of the backbone.
        data: digest of all questions as the model sees them, and of their references.
        decoder: settings of the decoder, its class and constructor arguments among them.
        precision, dtype: of the trainer and of the backbone.
        arguments: command line of the evaluation; empty from Python.
        hooks: settings of the attention hooks that were installed on the backbone.
        quantization: of the backbone.
    """

    prompt: str
    backbone: str
    data: str
    decoder: dict[str, Any]
    precision: str
    dtype: str
    arguments: list[str]
    hooks: list[dict[str, Any]] = field(default_factory=list)
    quantization: str = "none"


COMPARED = {
    "prompt": "the trained prompt",
    "data": "the questions",
    "decoder": "the decoder",
    "hooks": "the attention hooks",
    "precision": "--trainer.precision",
    "dtype": "--backbone.dtype",
    "quantization": "--backbone.quantization",
}


def identity_of(
    trainer: L.Trainer, module: SoftPromptModule, split: str, arguments: Iterable[str]
) -> Identity:
    """Describe the evaluation that is about to start."""
    with decoder_faults(module.decoder, "summary"):
        decoder = recorded_settings(module.decoder)
    return Identity(
        prompt=tensors_digest(module.state_dict()),
        backbone=module.backbone.fingerprint,
        data=data_of(trainer).digest(split),
        decoder=json.loads(json.dumps(decoder)),
        precision=str(trainer.precision),
        dtype=str(module.backbone.dtype).removeprefix("torch."),
        arguments=list(arguments),
        hooks=json.loads(json.dumps([recorded_settings(hook) for hook in module.backbone.hooks])),
        quantization=module.backbone_config.quantization,
    )


def not_resumable(identity: Identity) -> str:
    """Return why an interrupted test could not be recognized; empty if it could."""
    parts = (("decoder", identity.decoder), ("hook", identity.hooks))
    names = [f"{what} setting {name}" for what, settings in parts for name in unrecorded(settings)]
    return f"{', '.join(names)} has no representation that is the same in each process" if names else ""


def write_identity(identity: Identity, folder: Path) -> None:
    """Write an evaluation's description before its first batch."""
    write_text(folder / IDENTITY_FILE, dump_json(asdict(identity), indent=2) + "\n")


def read_identity(folder: Path) -> Identity:
    """Read the description of an interrupted evaluation.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    return read_typed(Identity, folder / IDENTITY_FILE, "description of the test")


def check_identity(identity: Identity, folder: Path, backbone: Backbone) -> None:
    """Check that the records in a folder are of an evaluation, whose backbone is ``backbone``.

    Raises:
        UserError: naming what differs.
    """
    stored = read_identity(folder)
    subject = f"the test in {shown_path(folder)} cannot be resumed"
    backbone.check_belongs(f"{subject}: it", stored.backbone)
    before, now = asdict(stored), asdict(identity)
    for name, what in COMPARED.items():
        if before[name] != now[name]:
            values = _difference(before[name], now[name])
            raise UserError(f"{subject}: {what} must be the same{values}; start a new test without --resume")
    if reason := not_resumable(stored):
        raise UserError(f"{subject}: {reason}; start a new test without --resume")


def _difference(before: Any, now: Any, name: str = "") -> str:
    """Return a clause with the first values that differ; empty if they are long."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            if key not in before or key not in now:
                stored, used = (repr(part[key]) if key in part else "nothing" for part in (before, now))
                return _values(stored, used, f"{name}{key}")
            if before[key] != now[key]:
                return _difference(before[key], now[key], f"{name}{key}.")
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (stored, used) in enumerate(zip(before, now, strict=True)):
            if stored != used:
                return _difference(stored, used, f"{name}{number}.")
    return _values(str(before), str(now), name.removesuffix("."))


def _values(before: str, now: str, name: str) -> str:
    if max(len(before), len(now)) > 60:
        return f" (different: {name})" if name else ""
    return f", got {name and name + ' '}{now} instead of {before}"


def partial_files(path: Path) -> list[Path]:
    """Return the partial files of all ranks beside the complete file ``path``."""
    return sorted(path.parent.glob(f"{path.stem}.partial*.jsonl"))


def read_partial(path: Path) -> list[dict[str, Any]]:
    """Read the lines of all ranks' partial files; a last line that was cut off is ignored.

    Args:
        path: the complete file.

    Raises:
        UserError: with file and line, if another line is not a JSON object.
    """
    lines = []
    for file in partial_files(path):
        *whole, _ = read_bytes(file, "partial results", LIMIT).split(b"\n")
        for number, line in enumerate(whole, start=1):
            try:
                value = parse_object(line)
                if not isinstance(value.get("id"), str):
                    raise UserError("expected a record with an id")
            except UserError as error:
                raise UserError(f"{shown_path(file)}:{number}: {error}") from error
            lines.append(value)
    return lines


def record_of(line: Mapping[str, Any], where: str) -> Record:
    """Return the record of a line of ``results.jsonl``.

    Raises:
        UserError: if a field is missing or has another type.
    """
    return validated(Record, dict(line), where)

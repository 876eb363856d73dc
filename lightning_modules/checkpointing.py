"""Prompt-only checkpoints: written atomically, checked when they are read."""

import io
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from promptstage.lightning_modules.checkpoint_schema import check_contents, check_progress
from promptstage.lightning_modules.training_state import check_numbers
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import make_folder, write_bytes

if TYPE_CHECKING:
    from promptstage.lightning_modules.base import SoftPromptModule

FORMAT = 1


def describe(module: "SoftPromptModule") -> dict[str, Any]:
    """What a checkpoint says of itself: method, backbone and structure, as plain values."""
    return {
        "format": FORMAT,
        "method": type(module).__name__,
        "backbone": asdict(module.backbone_config),
        "fingerprint": module.load_backbone().fingerprint,
        "structure": module.structure(),
    }


def verify(module: "SoftPromptModule", checkpoint: Mapping[str, Any]) -> None:
    """Check that ``checkpoint`` was made by this method over this backbone.

    Raises:
        UserError: naming what differs.
    """
    theirs = checkpoint.get("promptstage")
    if not isinstance(theirs, Mapping) or "format" not in theirs:
        raise UserError("the checkpoint was not written by promptstage")
    ours = describe(module)
    if theirs["format"] != FORMAT:
        raise UserError(f"the checkpoint has format {theirs['format']}, this version reads format {FORMAT}")
    if theirs["method"] != ours["method"]:
        raise UserError(f"the checkpoint is of method {theirs['method']}, the model is {ours['method']}")
    if not module.load_backbone().matches(theirs["fingerprint"]):
        raise UserError(
            f"the checkpoint belongs to backbone '{theirs['backbone']['name']}' "
            f"(fingerprint {theirs['fingerprint']}), not to '{ours['backbone']['name']}' "
            f"({ours['fingerprint']})"
        )
    for key in [*ours["structure"], *theirs["structure"]]:
        one, other = (said["structure"].get(key, "unset") for said in (theirs, ours))
        if one != other:
            raise UserError(f"the checkpoint has {key} {one}, the model has {other}")
    trainer = module._trainer
    if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
        check_progress(checkpoint, trainer)


def check_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Check that two state dictionaries have the same keys and shapes.

    Raises:
        UserError: naming the first difference.
    """
    missing, unexpected = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    if missing or unexpected:
        raise UserError(
            f"the checkpoint does not fit the model: missing {missing or 'nothing'}, "
            f"unexpected {unexpected or 'nothing'}"
        )
    for key in ours:
        if ours[key].shape != theirs[key].shape:
            raise UserError(
                f"the checkpoint does not fit the model: {key} is {tuple(theirs[key].shape)} there "
                f"and {tuple(ours[key].shape)} here"
            )


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint on the CPU as plain values and tensors; nothing in it is executed.

    Raises:
        UserError: if the file is missing, damaged, or not a checkpoint of ours.
    """
    where = f"checkpoint {path}"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{where} is not a regular file")
        with open(path, "rb") as file:
            _check_archive(file, where)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{where} does not exist") from error
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds for a file of another kind
        raise UserError(f"{where} is truncated or not a checkpoint") from error
    if not isinstance(checkpoint, dict) or "promptstage" not in checkpoint:
        raise UserError(f"{where} was not written by promptstage")
    check_contents(checkpoint, where)
    check_numbers(checkpoint, where)
    return checkpoint


def _check_archive(file: BinaryIO, where: str) -> None:
    """Check the ZIP archive of a checkpoint, whose checksums torch ignores.

    Raises:
        UserError: if a part is damaged, compressed or duplicated.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename for entry in entries}
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or len(names) != len(entries):
            raise UserError(f"{where} is not a checkpoint: torch.save never writes such an archive")
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(
            f"{where} is damaged: the checksum of '{damaged}' does not match (best.ckpt and last.ckpt of "
            "a run are independent: try the other one)"
        )


class PromptCheckpointIO(TorchCheckpointIO):
    """Reads and writes checkpoints; a crash while writing leaves the previous file as it was."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        make_folder(Path(path).parent)
        # Prompts are small; to a file, torch would write around Python's errors.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getvalue())

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read_checkpoint(path)

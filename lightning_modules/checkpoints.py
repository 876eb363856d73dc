"""Prompt-only checkpoints: described, written atomically, and verified when they are read."""

import io
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from promptstage.lightning_modules.checkpoint_numbers import check_numbers
from promptstage.lightning_modules.checkpoint_schema import FORMAT, check_contents, check_progress
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.arguments import plain_arguments
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import make_folder, write_bytes
from promptstage.utilities.reading import check_format
from promptstage.utilities.tensor_files import write_tensors


def describe(module: PromptModule) -> dict[str, Any]:
    """Describe a module as plain values: its method with arguments, its backbone, structure and texts."""
    text = asdict(module.text_settings)
    return {
        "format": FORMAT,
        "method": type(module).__name__,
        "backbone": asdict(module.backbone_config),
        "fingerprint": module.load_backbone().fingerprint,
        "structure": module.structure(),
        "arguments": plain_arguments(module.constructor_arguments),
        "text": text | {"stop": list(text["stop"])},
    }


def verify(module: PromptModule, checkpoint: Mapping[str, Any]) -> None:
    """Check that ``checkpoint`` was made by this method over this backbone.

    Raises:
        UserError: naming what differs.
    """
    stored = checkpoint.get("promptstage")
    if not isinstance(stored, Mapping) or "format" not in stored:
        raise UserError("the checkpoint was not written by promptstage")
    own = describe(module)
    check_format(stored, FORMAT, "the checkpoint")
    if stored["method"] != own["method"]:
        raise UserError(f"method must be {stored['method']} as in the checkpoint, got {own['method']}")
    trainer = module._trainer
    fits = trainer is not None and trainer.state.fn == TrainerFn.FITTING
    if fits or not module.transfers:
        module.load_backbone().check_belongs(
            "the checkpoint", stored["fingerprint"], stored["backbone"]["name"]
        )
    for key in [*own["structure"], *stored["structure"]]:
        before, now = (values["structure"].get(key, "unset") for values in (stored, own))
        if before != now:
            raise UserError(f"{key} must be {before} as in the checkpoint, got {now}")
    if trainer is not None and fits:
        check_progress(checkpoint, trainer)


def check_keys(own: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Check that two state dictionaries have the same keys and shapes.

    Raises:
        UserError: naming the first difference.
    """
    missing, unexpected = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    if missing or unexpected:
        raise UserError(
            f"the checkpoint does not fit the model: missing {missing or 'nothing'}, "
            f"unexpected {unexpected or 'nothing'}"
        )
    for key in own:
        if own[key].shape != stored[key].shape:
            raise UserError(
                f"the checkpoint does not fit the model: {key} is {tuple(stored[key].shape)} there "
                f"and {tuple(own[key].shape)} here"
            )


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint on the CPU as plain values and tensors; nothing in it is executed.

    Raises:
        UserError: if the file is missing, damaged, or not a checkpoint of promptstage.
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
    """Reader and writer of checkpoints; a crash while writing leaves the previous file as it was."""

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


# --- export for other programs ------------------------------------------------------------------------


def write_export(path: Path, tensors: Mapping[str, Tensor], step: int, module: PromptModule) -> None:
    """Write a prompt as it is used, with its method, backbone fingerprint and step as metadata.

    Args:
        tensors: from ``module.exported()`` or :func:`exported_from`.

    Raises:
        UserError: if the file cannot be written.
    """
    about = {"method": type(module).__name__, "fingerprint": module.backbone.fingerprint, "step": step}
    write_tensors(path, tensors, about)


def exported_from(module: PromptModule, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what ``module`` exports with the parameters of a checkpoint; its own are restored afterwards.

    Raises:
        UserError: if the checkpoint has another method, backbone or structure.
    """
    with loaded_state(module, checkpoint):
        return {name: tensor.detach().clone() for name, tensor in module.exported().items()}


@contextmanager
def loaded_state(module: PromptModule, checkpoint: Mapping[str, Any]) -> Iterator[None]:
    """Use the parameters of a checkpoint within a context; the module's own are restored afterwards.

    Raises:
        UserError: if the checkpoint has another method, backbone or structure.
    """
    verify(module, checkpoint)
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    try:
        module.load_state_dict(checkpoint["state_dict"])
        yield
    finally:
        module.load_state_dict(own)

"""Prompts on disk, independent of a run: save to a folder, load from a folder, checkpoint or run.

A folder holds ``prompt.safetensors``, the trained parameters, and ``prompt.json``: format, method,
arguments, structure, stages, text settings, and the backbone's configuration and fingerprint. The JSON is
written last and has a SHA-256 digest of the tensors, so that an incomplete folder is detected.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from promptstage.lightning_modules.adapters.files import is_adapter
from promptstage.lightning_modules.adapters.loading import load_adapter
from promptstage.lightning_modules.checkpoint_numbers import check_numbers
from promptstage.lightning_modules.checkpoint_schema import FORMAT, Description, described
from promptstage.lightning_modules.checkpoints import describe, read_checkpoint, verify
from promptstage.lightning_modules.old_checkpoints import configured_arguments, configured_text
from promptstage.lightning_modules.prompt_module import BackboneLike, PromptModule
from promptstage.lightning_modules.text_settings import TextSettings
from promptstage.utilities.arguments import typed_arguments
from promptstage.utilities.checks import check_maximum
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import make_folder, write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import read_json, read_typed
from promptstage.utilities.tensor_files import read_tensors, tensors_digest, write_tensors

TENSORS, DESCRIPTION = "prompt.safetensors", "prompt.json"
_FIELDS = {field.name for field in fields(Description)} | {"entries", "sha256"}

M = TypeVar("M", bound=PromptModule)


def save_prompt(module: PromptModule, folder: str | os.PathLike[str]) -> None:
    """Write what is trained, and all that loading needs, to a folder.

    Raises:
        UserError: if the folder has another prompt or cannot be written to, or an argument of the method
            cannot be stored.
    """
    folder = Path(folder).expanduser()
    module.create_prompts()
    values = describe(module)
    if values["arguments"] is None:
        raise UserError(f"{values['method']} cannot be saved: its arguments must be plain values")
    state = module.state_dict()
    check_numbers({"state_dict": state}, "the prompt")
    digest = tensors_digest(state)
    values |= {"entries": module.stored_entries(), "sha256": digest}
    lines = [f"  {dump_json(key)}: {dump_json(value)}" for key, value in values.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    about = {"method": values["method"], "fingerprint": values["fingerprint"]}
    make_folder(folder)
    _check_free(folder, json.loads(text), about)
    write_tensors(folder / TENSORS, state, about)
    write_text(folder / DESCRIPTION, text)


def _check_free(folder: Path, values: dict[str, Any], about: dict[str, Any]) -> None:
    """Check that a folder has no prompt, or the same one, perhaps without its description.

    Raises:
        UserError: if it has another one.
    """
    if os.path.lexists(folder / DESCRIPTION):
        same = read_json(folder / DESCRIPTION, "prompt file") == values
    elif os.path.lexists(folder / TENSORS):
        tensors, stored = read_tensors(folder / TENSORS, "prompt file")
        same = stored == about and tensors_digest(tensors) == values["sha256"]
    else:
        return
    if not same:
        raise UserError(f"folder {folder} already has another prompt: save to a new folder")


def load_prompt(path: str | os.PathLike[str], backbone: BackboneLike | None = None) -> PromptModule:
    """Load a trained prompt, ready to evaluate, from a saved folder, run folder, checkpoint or PEFT folder.

    Nothing in the files is executed. Methods outside this project are loaded by their own class's
    ``load_from_checkpoint``.

    Args:
        path: saved folder; run folder, whose best checkpoint is loaded, or else its last; checkpoint; or
            folder of PEFT (see :func:`load_adapter`).
        backbone: backbone to use; None loads the one that the prompt was trained on. A loaded one is shared.

    Raises:
        UserError: if there is no prompt, its files are damaged, or it belongs to another backbone.
    """
    from promptstage import lightning_modules  # by name, on first use: methods import this module

    path = Path(path).expanduser()
    if is_adapter(path) and not os.path.lexists(path / DESCRIPTION):
        return load_adapter(path, backbone)
    contents, where = read_prompt(path)
    method = described(contents, where).method
    if method not in lightning_modules.__all__:
        raise UserError(
            f"{where} is of method {method:.60}, which is not one of promptstage's: load it with "
            "load_from_checkpoint of that class"
        )
    return restore(getattr(lightning_modules, method), contents, where, backbone)


def restore(
    cls: type[M],
    contents: Mapping[str, Any],
    where: str,
    backbone: BackboneLike | None = None,
    **overrides: Any,
) -> M:
    """Build a module from a checkpoint's contents.

    Args:
        where: origin of the contents, for messages.
        backbone: backbone to use; None for the stored one, without permission to run its code.
        overrides: arguments that replace stored ones.

    Raises:
        UserError: if method, arguments, backbone, structure or tensors do not fit.
    """
    description = described(contents, where)
    if description.method != cls.__name__:
        raise UserError(f"{where}: method must be {cls.__name__}, got {description.method:.60}")
    arguments = description.arguments
    if arguments is None:
        arguments = configured_arguments(contents, description.method, where)
    if arguments is None and not overrides:
        raise UserError(f"{where} does not hold the arguments of {cls.__name__}: give them by name")
    stored = {name: value for name, value in (arguments or {}).items() if name not in overrides}
    if backbone is None:
        backbone = description.backbone_config(where)
    typed = typed_arguments(cls, stored, where)
    try:
        module = cls(backbone=backbone, **typed, **overrides)
        _check_size(module, contents["state_dict"])
        # Starting values are drawn and then replaced; the caller's random numbers stay as they are.
        with torch.random.fork_rng(devices=[]):
            module.adopt(contents)
            module.create_prompts()
        verify(module, contents)
        module.load_state_dict(contents["state_dict"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    module.text_settings = stored_text(contents, where)
    return module.eval()


def _check_size(module: PromptModule, state: Mapping[str, Tensor]) -> None:
    """Check, before prompts are created, that the tensors can hold the number of virtual tokens.

    Raises:
        UserError: if they cannot.
    """
    size = sum(tensor.numel() for tensor in state.values())
    tokens = {"num_virtual_tokens": getattr(module, "num_virtual_tokens", 0)}
    check_maximum(tokens, size, "size of the stored prompt")


def stored_text(contents: Mapping[str, Any], where: str) -> TextSettings:
    """Return the text settings in a checkpoint's description or, before version 0.2, its configuration.

    Raises:
        UserError: if they are invalid.
    """
    return described(contents, where).text or configured_text(contents, where)


def read_prompt(path: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """Read a saved folder, the checkpoint of a run folder, or a checkpoint.

    Returns:
        Contents in the form of a checkpoint, and a name of their origin for messages.

    Raises:
        UserError: if there is no prompt, or its files are damaged.
    """
    path = Path(path).expanduser()
    if path.is_dir() and os.path.lexists(path / DESCRIPTION):
        return _read_folder(path), f"prompt folder {path}"
    if path.is_dir() and not (path / "checkpoints").is_dir():
        hint = ": load this PEFT folder with promptstage.load" if is_adapter(path) else ""
        raise UserError(f"folder {path} has no {DESCRIPTION} and no checkpoints{hint}")
    file = checkpoint_in(path)
    return read_checkpoint(file), f"checkpoint {file}"


def checkpoint_in(path: str | os.PathLike[str], newest: bool = False) -> Path:
    """Return the checkpoint that a path stands for: itself, or a run folder's best, else its last.

    Args:
        newest: prefer the last checkpoint, to resume from.

    Raises:
        UserError: if the folder has no checkpoint.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    for name in ("last", "best") if newest else ("best", "last"):
        file = path / "checkpoints" / f"{name}.ckpt"
        if file.is_file():
            return file
    raise UserError(f"folder {path} has no checkpoints/best.ckpt or checkpoints/last.ckpt")


def _read_folder(folder: Path) -> dict[str, Any]:
    where = f"prompt file {folder / DESCRIPTION}"
    values = read_typed(dict[str, Any], folder / DESCRIPTION, "prompt file", FORMAT)
    if values.keys() != _FIELDS:
        raise UserError(f"{where} must have the fields {', '.join(sorted(_FIELDS))}, and no others")
    entries, digest = values.pop("entries"), values.pop("sha256")
    contents = {"promptstage": values}
    described(contents, where)
    if not isinstance(entries, dict) or entries.keys() & {"promptstage", "state_dict", "config"}:
        raise UserError(f"{where}: field 'entries' is invalid")
    tensors, _ = read_tensors(folder / TENSORS, "prompt file")
    if digest != tensors_digest(tensors):
        raise UserError(f"prompt file {folder / TENSORS} is damaged: its digest is not that in {where}")
    check_numbers({"state_dict": tensors}, f"prompt file {folder / TENSORS}")
    return contents | entries | {"state_dict": tensors}

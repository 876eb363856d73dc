"""safetensors files with a description and a SHA-256 digest of the tensors in their metadata."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptstage.utilities.errors import UserError
from promptstage.utilities.files import write_bytes
from promptstage.utilities.reading import parse_json, read_bytes

ENTRY = "promptstage"  # the only metadata entry: safetensors writes several in a random order
LIMIT = 4 << 30  # bytes


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of names, dtypes, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        about = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(about).encode() + b"\n")
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors atomically; equal contents produce identical files.

    Args:
        path: the file.
        tensors: tensors by name.
        about: plain values for the metadata.

    Raises:
        UserError: if the file cannot be written.
    """
    from safetensors.torch import save

    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    entry = json.dumps(dict(about) | {"sha256": tensors_digest(stored)}, ensure_ascii=False)
    write_bytes(path, save(stored, {ENTRY: entry}))


def read_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and the values stored with them.

    Args:
        path: the file.
        what: name of the file in messages.

    Raises:
        UserError: if the file cannot be read, or its tensors do not match its digest. Files of versions
            without digests are not checked.
    """
    tensors, metadata = read_foreign_tensors(path, what)
    if ENTRY in metadata:
        about = parse_json(metadata[ENTRY], f"{what} {path}: its metadata")
    else:
        about = {name: parse_json(value, f"{what} {path}: its metadata") for name, value in metadata.items()}
    if not isinstance(about, dict):
        raise UserError(f"{what} {path} has metadata that is not a mapping")
    digest = about.pop("sha256", None)
    if digest is not None and digest != tensors_digest(tensors):
        raise UserError(f"{what} {path} is damaged: its tensors do not match its SHA-256 digest")
    return tensors, about


def read_foreign_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file of any program.

    Args:
        path: the file.
        what: name of the file in messages.

    Raises:
        UserError: if the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_bytes(path, what, LIMIT)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{what} {path} is not a safetensors file: {error}") from error
    length = int.from_bytes(content[:8], "little")
    header = parse_json(content[8 : 8 + length].decode(), f"{what} {path}")
    return tensors, header.get("__metadata__") or {}

"""Folders of PEFT: ``adapter_config.json`` and ``adapter_model.safetensors``.

Folders written here have a third file, ``promptstage.json``, which PEFT ignores. It tells what PEFT's files
have no place for: the backbone's fingerprint, whether a BOS is the first row, and how questions are rendered.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from promptstage.lightning_modules.checkpoint_numbers import check_numbers
from promptstage.lightning_modules.text_settings import TextSettings
from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.files import write_bytes, write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import parse_json, read_text, read_typed
from promptstage.utilities.tensor_files import read_foreign_tensors, tensors_digest

CONFIG, TENSORS, ORIGIN = "adapter_config.json", "adapter_model.safetensors", "promptstage.json"
PICKLE = "adapter_model.bin"
FORMAT = 1
PROMPT, LORA = "PROMPT_TUNING", "LORA"
# A cartridge is a prefix that PEFT trains in another way.
PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")
TYPES = (PROMPT, *PREFIXES, LORA)
EMBEDDINGS = "prompt_embeddings"
WHAT = "PEFT file"


@dataclass(frozen=True)
class Origin:
    """Facts about an exported prompt that PEFT's files do not contain.

    Attributes:
        format: of this description.
        method: name of the exported method's class.
        backbone: its :class:`BackboneConfig` as plain values.
        fingerprint: of the backbone.
        leading: number of first rows that are embeddings of real tokens: 1 for a BOS.
        text: how questions are rendered and generations end.
        sha256: digest of the tensors.
    """

    format: int
    method: str
    backbone: dict[str, Any]
    fingerprint: str
    leading: int
    text: TextSettings
    sha256: str

    def __post_init__(self) -> None:
        if self.leading not in (0, 1):
            raise ValueError(f"field 'leading' must be 0 or 1, got {self.leading}")


@dataclass(frozen=True)
class Adapter:
    """Contents of a PEFT folder.

    Attributes:
        config: values of ``adapter_config.json``.
        tensors: tensors by PEFT's names.
        origin: description that the export has added; None for a folder of another program.
        where: the folder, for messages.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    origin: Origin | None = None
    where: str = field(default="the adapter")

    @property
    def kind(self) -> str:
        """PEFT's name of the method."""
        return str(self.config["peft_type"])

    @property
    def leading(self) -> int:
        """Number of first rows that are embeddings of real tokens."""
        return 0 if self.origin is None else self.origin.leading


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder with PEFT's files."""
    return os.path.isdir(path) and os.path.lexists(Path(path) / CONFIG)


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write PEFT's files to a folder, in PEFT's own form, and the description of their origin.

    Raises:
        UserError: if the folder cannot be written to, or a tensor has NaN or infinite values.
    """
    from safetensors.torch import save

    check_numbers({"state_dict": adapter.tensors}, "the prompt")
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors.items()}
    write_bytes(folder / TENSORS, save(stored, {"format": "pt"}))
    if adapter.origin is not None:
        lines = [f"  {dump_json(key)}: {dump_json(value)}" for key, value in asdict(adapter.origin).items()]
        write_text(folder / ORIGIN, "{\n" + ",\n".join(lines) + "\n}\n")
    write_text(folder / CONFIG, json.dumps(dict(adapter.config), indent=2, sort_keys=True))


def read_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Read a PEFT folder; nothing in it is executed.

    Raises:
        UserError: if files are missing or damaged, or it is of a type that promptstage does not have.
    """
    folder = Path(path).expanduser()
    where = f"PEFT folder {folder}"
    if not folder.is_dir():
        raise UserError(f"{where} does not exist")
    if not os.path.lexists(folder / CONFIG):
        raise UserError(f"{where} has no {CONFIG}")
    # Other programs may write NaN.
    config = parse_json(read_text(folder / CONFIG, WHAT), f"{WHAT} {folder / CONFIG}", strict=False)
    if not isinstance(config, dict):
        raise UserError(f"{WHAT} {folder / CONFIG} must be a mapping")
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind not in TYPES:
        hint = nearest(str(kind), TYPES)
        raise UserError(f"{where}: peft_type {str(kind)[:60]!r} is not supported: {hint}")
    if task not in (None, "CAUSAL_LM"):
        raise UserError(f"{where}: task_type must be CAUSAL_LM, got {str(task)[:60]!r}")
    if not os.path.lexists(folder / TENSORS):
        pickled = os.path.lexists(folder / PICKLE)
        reason = f", and {PICKLE} could run code: save it again with safe_serialization=True"
        raise UserError(f"{where} has no {TENSORS}{reason if pickled else ''}")
    tensors, _ = read_foreign_tensors(folder / TENSORS, WHAT)
    if not tensors or not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise UserError(f"{WHAT} {folder / TENSORS} must have tensors of floating-point numbers only")
    check_numbers({"state_dict": tensors}, f"{WHAT} {folder / TENSORS}")
    return Adapter(config, tensors, _read_origin(folder, tensors), where)


def _read_origin(folder: Path, tensors: Mapping[str, Tensor]) -> Origin | None:
    if not os.path.lexists(folder / ORIGIN):
        return None
    origin = read_typed(Origin, folder / ORIGIN, WHAT, FORMAT)
    if origin.sha256 != tensors_digest(tensors):
        raise UserError(
            f"{WHAT} {folder / ORIGIN} describes other tensors than those in {TENSORS}: if PEFT has trained "
            f"them further, remove {ORIGIN}"
        )
    return origin


def rows_of(adapter: Adapter, width: int, what: str) -> Tensor:
    """Return a prompt's rows (m, width) in float32, those of leading tokens included.

    Args:
        width: width that the backbone requires.
        what: meaning of the width, for the message.

    Raises:
        UserError: if tensors or configuration have another form.
    """
    names = sorted(adapter.tensors)
    if names != [EMBEDDINGS]:
        raise UserError(
            f"{adapter.where}: the only tensor must be '{EMBEDDINGS}', got {', '.join(names):.80}"
        )
    rows = adapter.tensors[EMBEDDINGS]
    if rows.ndim != 2 or rows.shape[1] != width or len(rows) <= adapter.leading:
        raise UserError(
            f"{adapter.where} does not fit the backbone: '{EMBEDDINGS}' must have shape (tokens, {width}), "
            f"the width being {what}, got {tuple(rows.shape)}"
        )
    expected = {"num_virtual_tokens": len(rows), "num_transformer_submodules": 1}
    check_config(adapter, expected)
    return rows.float()


def check_config(adapter: Adapter, expected: Mapping[str, object]) -> None:
    """Check values of a PEFT configuration; a missing or null one is allowed.

    Raises:
        UserError: naming the first value that differs.
    """
    for name, value in expected.items():
        stored = adapter.config.get(name)
        if stored is not None and stored != value:
            raise UserError(f"{adapter.where}: {name} must be {value}, got {stored!r:.60}")

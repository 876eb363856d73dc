"""Checks of a saved model's files before any library reads them."""

import os
import pickle
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from promptstage.lightning_modules.backbone.boundary import reason
from promptstage.utilities.errors import UserError, shown
from promptstage.utilities.reading import parse_json, read_text

if TYPE_CHECKING:
    import torch

CONFIGURATION = ("config.json", "generation_config.json")
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_READ = frozenset((".json", ".jinja", ".txt", ".model", ".safetensors", ".bin", ".gguf"))
_LFS = b"version https://git-lfs.github.com/spec/"
_MOST_JSON = 2**29
MOST_LAYERS = 10_000


class StoredTensor(NamedTuple):
    """Shape and safetensors dtype (such as ``BF16``; empty for PyTorch files) of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str


def check_files(folder: Path) -> None:
    """Check that a folder's files are regular files in the format of their names.

    Raises:
        UserError: naming the first that is not.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix not in _READ:
            continue
        try:
            state = path.stat()  # follows links: the hub's cache consists of them
        except OSError as error:
            raise UserError(f"backbone file {path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f"backbone file {path} is not a regular file")
        with path.open("rb") as file:
            start = file.read(len(_LFS))
        if start == _LFS:
            raise UserError(
                f"backbone file {path} is a Git LFS pointer, not the file itself: run 'git lfs pull' there"
            )
        if not start and path.suffix != ".txt":
            raise UserError(f"backbone file {path} is empty")
        if path.suffix == ".gguf" and start[:4] != b"GGUF":
            raise UserError(f"backbone file {path} is not a GGUF file")
    if (folder / "adapter_config.json").exists():
        raise UserError(f"backbone folder {folder} holds a PEFT adapter: merge it into its model first")
    for name in (*CONFIGURATION, "tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        values = read_object(path) if path.exists() else {}
        if name in CONFIGURATION:
            _check_counts(path, values)
            ends = values.get("eos_token_id")
            if not all(type(end) is int for end in (ends if isinstance(ends, list) else [ends or 0])):
                raise UserError(
                    f"backbone file {path}: eos_token_id must be a token id or a list, got {ends!a}"
                )


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: if it holds anything else.
    """
    where = f"backbone file {path}"
    # Not strict: configurations of some models have infinite limits.
    values = parse_json(read_text(path, "backbone file", _MOST_JSON), where, strict=False)
    if not isinstance(values, dict):
        raise UserError(f"{where} must be an object, got {shown(values):.60}")
    return values


def _check_counts(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse layer counts that would occupy transformers before weights are compared."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            _check_counts(path, value)
        elif "per_layer" in key:  # a size, such as vocab_size_per_layer_input
            continue
        elif "layer" in key and isinstance(value, int | float) and not value <= MOST_LAYERS:
            raise UserError(f"backbone file {path}: {key} must be <= {MOST_LAYERS}, got {value}")


def weight_files(folder: Path, gguf_file: str | None = None) -> list[Path]:
    """Return the files from which transformers reads a model's weights.

    Raises:
        UserError: if there are none, or an index names a file that is missing or outside the folder.
    """
    if gguf_file:
        return [folder / gguf_file]
    weights = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if weights is None:
        raise UserError(
            f"backbone folder {folder} has no weights: expected model.safetensors, its shards with an "
            "index, or pytorch_model.bin (random weights: backbone.init_seed)"
        )
    if weights.suffix != ".json":
        return [weights]
    files = [folder / name for name in weight_names(weights)]
    for file in files:
        if not file.is_file():
            raise UserError(f"backbone file {weights} names file {file.name}, which is missing")
    return files


def weight_names(index: Path) -> list[str]:
    """Return the names of the shards in an index of weights.

    Raises:
        UserError: if it is damaged, or names a file outside its folder or one that holds no weights.
    """
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(n, str) for n in shards.values()):
        raise UserError(f"backbone file {index} has no weight_map from weights to files")
    names = sorted(set(shards.values()))
    for name in names:
        if name != Path(name).name or name in ("", ".", "..") or not name.isprintable():
            raise UserError(f"backbone file {index} names file {name!a}, which is not in its folder")
        if Path(name).suffix not in (".safetensors", ".bin"):
            raise UserError(f"backbone file {index} names file {name}, which holds no weights")
    return names


def stored_shapes(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Read the shape and dtype of each tensor in safetensors or PyTorch files, by name.

    Raises:
        UserError: naming a file that is damaged.
    """
    shapes: dict[str, StoredTensor] = {}
    for path in files:
        if path.suffix == ".safetensors":
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118  # not a mapping
                    part = file.get_slice(name)
                    shapes[name] = StoredTensor(tuple(part.get_shape()), part.get_dtype())
        else:
            for name, tensor in _unpickled(path).items():
                shapes[name] = StoredTensor(tuple(tensor.shape), "")
    return shapes


def stored_tensors(path: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Yield the tensors of a safetensors or PyTorch file by name, reading each on demand."""
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)
    else:
        yield from sorted(_unpickled(path).items())


def check_archive(path: Path) -> None:
    """Verify the checksums of a PyTorch file, which torch ignores.

    Raises:
        UserError: if one does not match.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise UserError(f"backbone file {path} is damaged: a checksum does not match")


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise UserError(f"backbone file {path} is truncated or damaged: {reason(error)}") from error


def _unpickled(path: Path) -> dict[str, "torch.Tensor"]:
    import torch

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # torch.save never compresses; a compressed entry can expand a thousandfold.
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("it is compressed")
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(f"backbone file {path} is damaged or holds more than weights") from error
    except Exception as error:  # torch raises many kinds for a broken file
        raise UserError(f"backbone file {path} is truncated or damaged: {reason(error)}") from error
    if not isinstance(values, dict) or not all(isinstance(v, torch.Tensor) for v in values.values()):
        raise UserError(f"backbone file {path} must hold tensors by name and nothing else")
    return values


def file_states(files: Iterable[Path]) -> list[tuple[str, int, int, int, int]]:
    """Return path, size, modification and change times (ns) and inode of each file."""
    states = ((os.path.realpath(path), os.stat(path)) for path in files)
    return [(path, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for path, s in states]

"""Metadata and tensor table of a GGUF file, read without its vocabulary and weights.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptstage.utilities.errors import UserError

_SCALARS = ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")
"""Format characters of ``struct``, by the number of the type; strings and arrays have none."""

_STRING, _ARRAY = 8, 9
_FLOAT32 = 0
_ALIGNMENT = 32  # bytes, unless the metadata has another


@dataclass(frozen=True)
class Tensor:
    """Entry of the tensor table.

    Attributes:
        shape: sizes in PyTorch's order, outermost first.
        kind: number of the storage format.
        offset: bytes from the start of the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """Header of a GGUF file: all that precedes its weights.

    Attributes:
        path: the file.
        metadata: values by key; of an array of strings, its length.
        tensors: the stored tensors, by name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def setting(self, name: str) -> Any:
        """Return a value of the model's architecture, such as ``rope.freq_base``; None if there is none."""
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.{name}")

    def vector(self, name: str) -> tuple[float, ...]:
        """Read a one-dimensional float32 tensor.

        Raises:
            UserError: if it is of another kind.
        """
        tensor = self.tensors[name]
        if tensor.kind != _FLOAT32 or len(tensor.shape) != 1:
            raise UserError(f"backbone file {self.path}: {name} must be a vector in float32")
        size = tensor.shape[0]
        with self.path.open("rb") as file:
            file.seek(tensor.offset)
            return struct.unpack(f"<{size}f", file.read(4 * size))


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file, version 2 or 3.

    Raises:
        UserError: if it is truncated or damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).header(path)
    except (struct.error, UnicodeDecodeError, ValueError, OverflowError, MemoryError, IndexError) as error:
        raise UserError(f"backbone file {path} is truncated or damaged: {error}") from error


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.position = content, 4

    def header(self, path: Path) -> Header:
        version, tensors, pairs = self.unpack("IQQ")
        if version not in (2, 3):
            raise ValueError(f"its version must be 2 or 3, got {version}")
        metadata = {}
        for _ in range(pairs):
            key = self.string()
            metadata[key] = self.value(*self.unpack("I"))
        table = {self.string(): self.tensor() for _ in range(tensors)}
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"general.alignment must be a positive integer, got {alignment!a}")
        start = -(-self.position // alignment) * alignment
        stored = {name: Tensor(shape, kind, start + offset) for name, (shape, kind, offset) in table.items()}
        return Header(path, metadata, stored)

    def unpack(self, format: str) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{format}")
        values = layout.unpack_from(self.content, self.position)
        self.position += layout.size
        return values

    def skip(self, size: int) -> int:
        """Move past ``size`` bytes; return where they begin."""
        begin = self.position
        if size > len(self.content) - begin:
            raise ValueError(f"it has {len(self.content)} bytes, and a text of {size} at {begin}")
        self.position += size
        return begin

    def string(self) -> str:
        (size,) = self.unpack("Q")
        begin = self.skip(size)
        return self.content[begin : begin + size].decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.unpack("IQ")
            if inner == _STRING:
                for _ in range(count):
                    self.skip(*self.unpack("Q"))
                return count
            return list(self.unpack(f"{count}{_scalar(inner)}"))
        return self.unpack(_scalar(kind))[0]

    def tensor(self) -> tuple[tuple[int, ...], int, int]:
        (dimensions,) = self.unpack("I")
        sizes = self.unpack(f"{dimensions}Q")
        kind, offset = self.unpack("IQ")
        return sizes[::-1], kind, offset


def _scalar(kind: int) -> str:
    if kind >= len(_SCALARS) or not _SCALARS[kind]:
        raise ValueError(f"type {kind} of a value is unknown")
    return _SCALARS[kind]

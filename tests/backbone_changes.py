"""Changes to a saved model folder: files replaced, truncated, edited or linked; code and pickles added."""

import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
EVIL = "import pathlib\npathlib.Path({canary!r}).touch()\n"

Mutation = Callable[[Path], None]


class Gadget:
    """Object that creates a file when it is unpickled."""

    def __init__(self, canary: Path, module: str) -> None:
        self.canary, self.module = canary, module

    def __reduce__(self) -> tuple:
        if self.module == "os":
            return os.system, (f"touch {self.canary}",)
        return eval, (f"__import__('pathlib').Path({str(self.canary)!r}).touch()",)


def write(name: str, content: bytes | str) -> Mutation:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def cut(name: str, share: float) -> Mutation:
    def mutate(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return mutate


def edited(name: str, change: Callable[[dict[str, Any]], Any]) -> Mutation:
    """Change a JSON file's object in place; ``change`` may also return a replacement."""

    def mutate(folder: Path) -> None:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        changed = change(values)
        (folder / name).write_text(json.dumps(values if changed is None else changed), encoding="utf-8")

    return mutate


def put(name: str, key: str, value: Any) -> Mutation:
    return edited(name, lambda values: values.update({key: value}))


def header(change: Callable[[dict[str, Any]], Any]) -> Mutation:
    """Change the header of the safetensors file."""

    def mutate(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        values = json.loads(data[8 : 8 + length])
        changed = change(values)
        text = json.dumps(values if changed is None else changed).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return mutate


def tensors(change: Callable[[dict[str, Any]], Any], name: str = WEIGHTS) -> Mutation:
    """Change the tensors and save them again."""

    def mutate(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        state = load_file(folder / WEIGHTS)
        change(state)
        if name == WEIGHTS:
            save_file(state, folder / name, {"format": "pt"})
        else:
            (folder / WEIGHTS).unlink()
            torch.save(state, folder / name)

    return mutate


def link(name: str, target: str) -> Mutation:
    def mutate(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return mutate


def instead(name: str, make: Callable[[Path], object]) -> Mutation:
    """Replace a file by what ``make`` creates at its path."""

    def mutate(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return mutate


def binary(content: Callable[[Path], bytes]) -> Mutation:
    """Replace the safetensors file by a ``pytorch_model.bin``; ``content`` gets the canary's path."""

    def mutate(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(content(canary(folder)))

    return mutate


def index(values: Any) -> Mutation:
    """Replace the safetensors file by an index; it becomes ``shard.safetensors``."""

    def mutate(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "shard.safetensors")
        text = values if isinstance(values, str) else json.dumps(values)
        (folder / f"{WEIGHTS}.index.json").write_text(text, encoding="utf-8")

    return mutate


def mapped(file: Any, **more: Any) -> dict[str, Any]:
    return {"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": file}, **more}


def canary(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.canary")


def archive(payload: bytes, compression: int = zipfile.ZIP_STORED, padding: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        file.writestr("archive/data.pkl", payload)
        file.writestr("archive/version", "3")
        if padding:
            file.writestr("archive/data/0", b"\0" * padding)
    return out.getvalue()


def with_code(name: str, key: str, value: Any) -> Mutation:
    """Add Python code to a folder, and name it in a file."""

    def mutate(folder: Path) -> None:
        put(name, key, value)(folder)
        code = EVIL.format(canary=str(canary(folder))) + "class Evil: pass\n"
        (folder / "evil.py").write_text(code, encoding="utf-8")

    return mutate


def flip(name: str, seed: int) -> Mutation:
    def mutate(folder: Path) -> None:
        draw = random.Random(seed)
        data = bytearray((folder / name).read_bytes())
        for _ in range(draw.choice((1, 1, 8))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(data)

    return mutate


def reshaped(key: str, shape: list[int]) -> Mutation:
    return header(lambda values: values[key].update(shape=shape))

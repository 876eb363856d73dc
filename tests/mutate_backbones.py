"""Damaged and malicious model folders: each is loaded, or refused in one line, and runs no code.

``python -m tests.mutate_backbones [--seed N] [--flips N]`` prints a line for each mutation and the counts.
"""

import argparse
import faulthandler
import io
import json
import os
import pickle
import random
import shutil
import signal
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 60
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


class Hang(BaseException):
    """Timeout of a folder."""


# --- pieces ---------------------------------------------------------------------------------------


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


# --- the mutations --------------------------------------------------------------------------------

FIRST = "model.layers.0.self_attn.q_proj.weight"


def _weights() -> Iterator[tuple[str, Mutation]]:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4976000\n"
    for name in (WEIGHTS, "config.json", "tokenizer.json"):
        yield f"{name} LFS pointer", write(name, pointer)
        yield f"{name} empty", write(name, "")
        yield f"{name} one byte", write(name, "x")
        yield f"{name} HTML", write(name, "<!DOCTYPE html><html>404</html>")
        for share in (0.1, 0.5, 0.99):
            yield f"{name} cut at {share}", cut(name, share)
        yield f"{name} a folder", instead(name, lambda path: path.mkdir())
        yield f"{name} a pipe", instead(name, os.mkfifo)
        yield f"{name} linked to nothing", link(name, "nothing")
        yield f"{name} linked to itself", link(name, name)
        yield f"{name} linked to a device", link(name, "/dev/zero")
        yield f"{name} linked to text", link(name, "/etc/hostname")
        yield f"{name} missing", instead(name, lambda path: None)
    for length in (0, 1, 2**31, 2**63, 2**64 - 1, 10**8):
        yield f"header of {length} bytes", write(WEIGHTS, struct.pack("<Q", length) + b"{}" * 50)
    bomb = b"[" * 200_000
    yield "header nested", write(WEIGHTS, struct.pack("<Q", len(bomb)) + bomb)
    for shape in ([], [-1], [2**62, 4], [2**64], [64, 16], [1024], [32, 32, 1], ["32", 32], None):
        yield f"shape {shape}", reshaped(FIRST, shape)  # type: ignore[arg-type]
    for dtype in ("I32", "F16", "BF16", "F8_E4M3", "F99", 7, None, "BOOL"):
        yield f"dtype {dtype}", header(lambda v, dtype=dtype: v[FIRST].update(dtype=dtype))
    for offsets in ([0, 0], [0, 2**63], [4096, 0], [-1, 4095], [1, 4097], "0", [0]):
        yield f"offsets {offsets}", header(lambda v, o=offsets: v[FIRST].update(data_offsets=o))
    yield "header a list", header(lambda v: [])
    yield "header empty", header(lambda v: {})
    yield "no metadata", header(lambda v: v.pop("__metadata__") and None)
    for form in ("tf", "flax", "mlx", "x"):
        yield f"format {form}", header(lambda v, form=form: v.update(__metadata__={"format": form}))
    yield "weight missing", tensors(lambda s: s.pop(FIRST))
    yield "five weights missing", tensors(lambda s: [s.pop(k) for k in list(s)[:5]])
    yield "weight too many", tensors(lambda s: s.update({"model.layers.9.x.weight": s[FIRST].clone()}))
    yield "weight renamed", tensors(lambda s: s.update({"q.weight": s.pop(FIRST)}))
    yield "weight of another width", tensors(lambda s: s.update({FIRST: s[FIRST][:, :16].clone()}))
    yield "weights none", tensors(lambda s: s.clear())
    for value in (float("nan"), float("inf"), -float("inf"), 1e38):
        yield f"weight of {value}", tensors(lambda s, v=value: s[FIRST].fill_(v))
        yield (
            f"one value of {value}",
            tensors(lambda s, v=value: s["model.embed_tokens.weight"][7, :1].fill_(v)),
        )
    yield "weights in int64", tensors(lambda s: s.update({k: v.long() for k, v in s.items()}))
    yield "weights in float16", tensors(lambda s: s.update({k: v.half() for k, v in s.items()}))
    yield "adapter beside", write("adapter_config.json", '{"base_model_name_or_path": "/etc"}')


def _pickles() -> Iterator[tuple[str, Mutation]]:
    yield "pytorch_model.bin", tensors(lambda s: None, "pytorch_model.bin")
    for module in ("os", "builtins"):
        for protocol in (0, 2, 4):
            yield (
                f"pickle of {module}, protocol {protocol}",
                binary(lambda path, m=module, p=protocol: pickle.dumps(Gadget(path, m), p)),
            )
        yield (
            f"archive of {module}",
            binary(lambda path, m=module: archive(pickle.dumps(Gadget(path, m), 2))),
        )
    yield (
        "pickle called safetensors",
        lambda f: (f / WEIGHTS).write_bytes(pickle.dumps(Gadget(canary(f), "os"))) and None,
    )
    yield "compressed archive", binary(lambda p: archive(pickle.dumps({}), zipfile.ZIP_DEFLATED, 2**26))
    yield "empty archive", binary(lambda p: archive(b""))
    for thing in ([], {}, "text", {"a": {"b": 1}}, {1: 2}, None):
        yield f"pickle of {thing!r}", binary(lambda p, t=thing: pickle.dumps(t, 2))
    yield "archive cut", binary(lambda p: archive(pickle.dumps({}))[:60])
    yield "bin LFS", binary(lambda p: b"version https://git-lfs.github.com/spec/v1\n")
    yield "bin random", binary(lambda p: random.Random(0).randbytes(5000))


def _indexes() -> Iterator[tuple[str, Mutation]]:
    files = ("../shard.safetensors", "/etc/hostname", "x/../shard.safetensors", "..", "", "config.json")
    for file in (*files, "missing.safetensors", 7, None, ["a"], {}, "a\0b", "\u202eshard.safetensors"):
        yield f"index names {file!r}", index(mapped(file))
    for values in ([], {}, {"weight_map": []}, {"weight_map": {}}, "{", "null", mapped("shard.safetensors")):
        yield f"index {values!r}", index(values)
    whole = {"metadata": None, "weight_map": {FIRST: "shard.safetensors"}}
    yield "index without metadata", index(whole)


def _configs() -> Iterator[tuple[str, Mutation]]:
    odd = (
        "32",
        "x",
        None,
        -1,
        0,
        1.5,
        10**6,
        10**10,
        10**30,
        [],
        [1, 2],
        {},
        {"a": 1},
        True,
        "\ud800",
        float("nan"),
    )
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    for key in (*keys, "intermediate_size", "head_dim", "max_position_embeddings", "rms_norm_eps"):
        for value in odd:
            yield f"{key} {value!r}", put("config.json", key, value)
    for key in (
        "model_type",
        "architectures",
        "hidden_act",
        "rope_parameters",
        "tie_word_embeddings",
        "dtype",
    ):
        for value in (
            "x",
            None,
            -1,
            10**10,
            [],
            ["x"],
            {},
            {"rope_type": "x"},
            True,
            "t5",
            "mamba",
            "gpt2",
            "float8",
        ):
            yield f"{key} {value!r}", put("config.json", key, value)
    more: dict[str, Any] = {
        "eos_token_id": 10**9,
        "bos_token_id": "x",
        "pad_token_id": -5,
        "quantization_config": {"quant_method": "gptq", "bits": 4},
        "attn_implementation": "kernels-community/flash-attn",
        "_attn_implementation": "eager",
        "transformers_version": 7,
        "id2label": "x",
        "layer_types": ["full_attention"] * 10**5,
        "text_config": {"num_hidden_layers": 10**9},
        "attention_bias": "yes",
        "pretraining_tp": 10**9,
        "torch_dtype": "os.system",
        "num_labels": 10**9,
    }
    for key, value in more.items():
        yield f"{key} {str(value)[:30]}", put("config.json", key, value)
    yield "quantization of x", put("config.json", "quantization_config", {"quant_method": "x"})
    yield "quantization 7", put("config.json", "quantization_config", 7)
    for text in (
        "{}",
        "[]",
        "null",
        "7",
        '"x"',
        "{",
        "[" * 10**5,
        '{"a": ' * 10**5,
        '{"a": 1' + "0" * 5000 + "}",
    ):
        yield f"config {text[:12]}", write("config.json", text)
    yield "config with a BOM", write("config.json", b"\xef\xbb\xbf{}")
    yield "config in UTF-16", write("config.json", "{}".encode("utf-16"))
    yield "config not UTF-8", write("config.json", b'{"a": "\xff"}')
    for text in (
        "{",
        "[]",
        "7",
        '{"eos_token_id": "x"}',
        '{"max_length": -1}',
        '{"temperature": "hot"}',
        '{"a": 7}',
    ):
        yield f"generation_config {text}", write("generation_config.json", text)
    for key in ("AutoModelForCausalLM", "AutoConfig"):
        yield f"code {key}", with_code("config.json", "auto_map", {key: "evil.Evil"})
    yield "custom generation", with_code("generation_config.json", "custom_generate", "evil")


def _tokenizers() -> Iterator[tuple[str, Mutation]]:
    odd = (None, 7, "x", [], {}, {"type": "x"}, [{"id": -1}], [{"id": 2**40, "content": "a"}])
    for key in ("model", "added_tokens", "pre_tokenizer", "normalizer", "decoder", "post_processor"):
        for value in odd:
            yield f"tokenizer {key} {value!r}", put("tokenizer.json", key, value)
    for pattern in ("(", "(a+)+$"):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        yield f"tokenizer splits at {pattern}", put("tokenizer.json", "pre_tokenizer", split)
    for key, value in (
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ("truncation", {"max_length": -1}),
        ("padding", 7),
        ("version", 7),
    ):
        yield f"tokenizer {key} {value!r}", put("tokenizer.json", key, value)
    yield "tokenizer a list", write("tokenizer.json", "[]")
    yield "tokenizer nested", write("tokenizer.json", '{"model": ' * 10**5)
    yield "ids not numbers", edited("tokenizer.json", lambda v: v["model"].update(vocab={"a": "b"}))
    yield "ids huge", edited("tokenizer.json", lambda v: v["model"].update(vocab={"a": 2**40}))
    named: dict[str, tuple[Any, ...]] = {
        "tokenizer_class": ("Evil", "os.system", 7, []),
        "eos_token": (7, None, {}, {"content": 7}, []),
        "pad_token": (7, [], {"content": 7}),
        "chat_template": (7, {}, []),
        "model_max_length": ("x", 10**40, -1, None),
        "added_tokens_decoder": (7, {"x": 7}, {"-5": {"content": "a"}}),
        "extra_special_tokens": (7, {"a": 7}),
        "padding_side": ("up", 7),
        "auto_map": (7, {"AutoTokenizer": 7}),
        "backend": (7,),
        "name_or_path": (7,),
        "clean_up_tokenization_spaces": ("x",),
    }
    for key, values in named.items():
        for value in values:
            yield f"tokenizer_config {key} {value!r}", put("tokenizer_config.json", key, value)
    for text in ("{", "[]", "7", "null"):
        yield f"tokenizer_config {text}", write("tokenizer_config.json", text)
        yield f"special_tokens_map {text}", write("special_tokens_map.json", text)
        yield f"added_tokens {text}", write("added_tokens.json", text)
    code = {"AutoTokenizer": ["evil.Evil", None]}
    yield "code of a tokenizer", with_code("tokenizer_config.json", "auto_map", code)
    yield "code of a class", with_code("tokenizer_config.json", "tokenizer_class", "evil.Evil")


def mutations(flips: int = 0, seed: int = 0) -> list[tuple[str, Mutation]]:
    """List all mutations by name; ``flips`` bit flips per file come last."""
    every = [*_weights(), *_pickles(), *_indexes(), *_configs(), *_tokenizers()]
    files = (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    for name in files:
        every += [(f"{name} flipped {i}", flip(name, seed + i)) for i in range(flips)]
    return every


# --- running them ---------------------------------------------------------------------------------


def outcome(folder: Path) -> tuple[str, str]:
    """Load a folder; return loaded, refused, TRACEBACK, HANG or CODE RUN, and the message."""
    from lightning_modules.backbone.loading import BackboneConfig, context_length, load_tokenizer
    from lightning_modules.backbone.model import Backbone
    from utilities.errors import UserError

    def late(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # inside a library that never returns
    config = BackboneConfig(name=str(folder))
    try:
        load_tokenizer(config)("1 + 1")
        context_length(config)
        Backbone(config)
    except UserError as error:
        text = str(error)
        verdict = "refused" if len(text.splitlines()) == 1 and text.isprintable() else "TRACEBACK"
    except Hang:
        verdict, text = "HANG", ""
    except BaseException as error:
        verdict, text = "TRACEBACK", f"{type(error).__name__}: {error}"
    else:
        verdict, text = "loaded", ""
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
    return ("CODE RUN" if canary(folder).exists() else verdict), text.replace(str(folder), "FOLDER")


def mutated(tiny: Path, work: Path, mutation: Mutation) -> tuple[str, str]:
    """Return the :func:`outcome` of a mutated copy of the folder ``tiny``, made in ``work``."""
    folder = work / "model"
    shutil.copytree(tiny, folder)
    try:
        mutation(folder)
        return outcome(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        canary(folder).unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the flipped bits")
    parser.add_argument("--flips", type=int, default=20, help="folders with flipped bits for each file")
    parser.add_argument("--only", default="", help="mutations with this in their name")
    args = parser.parse_args()
    from tests.tiny_folder import save_tiny_backbone

    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        tiny = save_tiny_backbone(Path(name) / "tiny")
        for title, mutation in mutations(args.flips, args.seed):
            if args.only in title:
                verdict, text = mutated(tiny, Path(name), mutation)
                counts[verdict] += 1
                print(f"{verdict:9} {title[:50]:50} {text[:160]}", flush=True)
    print(dict(counts), "of", counts.total())
    return int(bool(counts["TRACEBACK"] + counts["HANG"] + counts["CODE RUN"]))


if __name__ == "__main__":
    sys.exit(main())

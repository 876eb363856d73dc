"""Mutations of a model folder's weights: safetensors, pickles and indexes of shards."""

import os
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator

from tests.backbone_changes import (
    WEIGHTS,
    Gadget,
    Mutation,
    archive,
    binary,
    canary,
    cut,
    header,
    index,
    instead,
    link,
    mapped,
    reshaped,
    tensors,
    write,
)

FIRST = "model.layers.0.self_attn.q_proj.weight"


def weights() -> Iterator[tuple[str, Mutation]]:
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


def pickles() -> Iterator[tuple[str, Mutation]]:
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


def indexes() -> Iterator[tuple[str, Mutation]]:
    files = ("../shard.safetensors", "/etc/hostname", "x/../shard.safetensors", "..", "", "config.json")
    for file in (*files, "missing.safetensors", 7, None, ["a"], {}, "a\0b", "\u202eshard.safetensors"):
        yield f"index names {file!r}", index(mapped(file))
    for values in ([], {}, {"weight_map": []}, {"weight_map": {}}, "{", "null", mapped("shard.safetensors")):
        yield f"index {values!r}", index(values)
    whole = {"metadata": None, "weight_map": {FIRST: "shard.safetensors"}}
    yield "index without metadata", index(whole)

"""Seeded mutations of the files of a run, each read by a command.

``python -m tests.mutations --count 200`` counts how the commands end. A mutated file must be read, or
refused in one line: no traceback, no hang, no code that runs, nothing changed outside the run.
"""

import argparse
import io
import json
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
import yaml

from tests.tiny_folder import QUIET, call, save_tiny_backbone

DEADLINE = 60  # seconds for a command that takes one
FIT = ["--model=DHAM", "--model.partition=uniform", "--model.num_virtual_tokens=8", "--data=Generated"]
FIT += [
    "--data.task=letter_reversal",
    "--data.train_size=32",
    "--data.validation_size=4",
    "--data.test_size=4",
]
FIT += ["--data.max_new_tokens=8", "--trainer.log_every_n_steps=1", "--model.val_generations=2"]


class Hang(BaseException):
    """Timeout of a command. Not an Exception, so that nothing catches it."""


class Base(NamedTuple):
    """Files that mutations start from.

    Attributes:
        run: a finished run of DHAM with act.json in its test and a threshold of DPC.
        victim: a folder outside it, which no command may touch.
        marker: a file that exists once a payload has run.
    """

    run: Path
    victim: Path
    marker: Path


def make_base(folder: Path) -> Base:
    """Fit, test with ACT and calibrate a tiny backbone once."""
    tiny = save_tiny_backbone(folder / "tiny", layers=6)
    run = folder / "run"
    flags = [*QUIET, f"--backbone.name={tiny}", *FIT, "--trainer.max_steps=4", f"--run_dir={run}"]
    commands: list[tuple[object, ...]] = [
        ("fit", *flags),
        (
            "test",
            *QUIET,
            f"--ckpt_path={run}",
            "--trainer.callbacks=callbacks.act.ACT",
            "--trainer.callbacks.examples=2",
        ),
        ("calibrate", *QUIET, f"--ckpt_path={run}"),
    ]
    for command in commands:
        outcome = call(*command)
        assert outcome.code == 0, outcome.err
    victim = folder / "victim"
    victim.mkdir()
    (victim / "thesis.tex").write_text("content", encoding="utf-8")
    return Base(run, victim, folder / "payload-ran")


class Payload:
    """Object whose unpickling runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def hostile_values(base: Base) -> list[Any]:
    """List values that may replace another."""
    gadget = {"class_path": "subprocess.Popen", "init_args": {"args": f"touch {base.marker}", "shell": True}}
    deep: Any = 0
    for _ in range(5000):
        deep = [deep]
    return [
        None, True, False, 0, 1, -1, 3, 10**12, -(10**30), 2**70, 0.5, float("nan"), float("inf"), -1e308,
        "", "x", "\x1b]0;title\x07\u202e", "x" * 100_000, "null", "\ud800", "!!python/name:os.system",
        "../../..", str(base.victim), f"local://{base.victim}", "/dev/zero",
        "lightning_modules.PromptTuning", "runs.evil.Payload", {"class_path": "os.system"}, gadget,
        [], [1, 2], ["a"], (1, "a"), [[[]]], deep, {}, {"a": 1}, {1: 2},
    ]  # fmt: skip


def hostile_tensors() -> list[Any]:
    return [
        torch.zeros(0),
        torch.zeros(3, 5),
        torch.full((2, 2), torch.nan),
        torch.zeros(1).expand(1 << 40),
        torch.tensor(7, dtype=torch.int64),
        torch.zeros(2, dtype=torch.complex64),
        torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (1 << 40,)),
        torch.zeros(2, dtype=torch.bool),
    ]


def paths(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of each value in nested mappings and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def change(tree: Any, draw: random.Random, values: list[Any]) -> str:
    """Replace, remove, rename or add a value somewhere in ``tree``; return a description."""
    path = draw.choice(list(paths(tree)))
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    how = draw.choice(("replace", "replace", "replace", "remove", "add", "rename"))
    if how == "remove":
        del parent[path[-1]]
    elif how == "add" and isinstance(parent, dict):
        parent[draw.choice(("extra", "__class__", "class_path", 7))] = draw.choice(values)
    elif how == "rename" and isinstance(parent, dict):
        parent[f"{path[-1]}x"] = parent.pop(path[-1])
    else:
        parent[path[-1]] = value = draw.choice(values)
        with suppress(RecursionError):  # nested too deeply to be shown
            how = f"replace by {value!r:.40}"
    return f"{'.'.join(map(str, path))}: {how}"


def damage(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Flip a bit, cut, overwrite or repeat a part of a file; return it with a description."""
    how = draw.choice(("flip", "cut", "zeros", "noise", "empty", "doubled"))
    place = draw.randrange(max(1, len(content)))
    if how == "flip":
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        return bytes(changed), f"bit of byte {place}"
    parts = {
        "cut": content[:place],
        "zeros": content[:place] + bytes(512) + content[place + 512 :],
        "noise": content[:place] + draw.randbytes(64) + content[place + 64 :],
        "empty": b"",
        "doubled": content + content,
    }
    return parts[how], f"{how} at {place}"


def mutate_checkpoint(run: Path, base: Base, draw: random.Random) -> str:
    """Change both checkpoints of a run in the same way."""
    file = run / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    kind = draw.choice(("bytes", "content", "content", "tensor", "config", "config", "yaml", "pickle"))
    done = kind
    if kind == "bytes":
        raw, done = damage(file.read_bytes(), draw)
    elif kind == "pickle":
        raw = _pickle(base, draw)
    else:
        if kind == "config":
            values = yaml.safe_load(content["config"])
            done = "config " + change(values, draw, [*hostile_values(base)])
            try:
                content["config"] = yaml.safe_dump(values)
            except (yaml.YAMLError, RecursionError):
                content["config"] = "[" * 5000
        elif kind == "yaml":
            text, done = damage(content["config"].encode(), draw)
            content["config"] = text.decode("utf-8", "replace")
        else:
            done = change(content, draw, hostile_tensors() if kind == "tensor" else hostile_values(base))
        buffer = io.BytesIO()
        try:
            torch.save(content, buffer)
        except (RecursionError, UnicodeEncodeError):
            buffer.write(b"too deep to be saved")
        raw = buffer.getvalue()
    for name in ("best", "last"):
        (run / "checkpoints" / f"{name}.ckpt").write_bytes(raw)
    return f"checkpoint, {done}"


def _pickle(base: Base, draw: random.Random) -> bytes:
    """Make a pickle that would run a command, alone or in the archive that torch reads."""
    payload = pickle.dumps({"promptstage": Payload(base.marker), "state_dict": {}}, protocol=2)
    if draw.random() < 0.5:
        return payload
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def mutate_json(file: Path, base: Base, draw: random.Random) -> str:
    """Change a JSON file as data, or as bytes."""
    raw = file.read_bytes()
    if draw.random() < 0.3:
        raw, done = damage(raw, draw)
    else:
        values = json.loads(raw)
        done = change(values, draw, [value for value in hostile_values(base) if not isinstance(value, tuple)])
        try:
            raw = json.dumps(values).encode("utf-8", "surrogatepass")
        except RecursionError:
            raw = b"[" * 100_000
    file.write_bytes(raw)
    return f"{file.name}, {done}"


# What is mutated, and the commands that read it.
Mutation = Callable[[Path, Base, random.Random], str]
TARGETS: dict[str, tuple[Mutation, list[list[str]]]] = {
    "checkpoint": (
        mutate_checkpoint,
        [["fit", "--ckpt_path={run}", "--trainer.max_steps=5"], ["test", "--ckpt_path={run}"]],
    ),
    "partition": (
        lambda run, base, draw: mutate_json(run / "partition.json", base, draw),
        [["fit", "--backbone.name={tiny}", *FIT[2:], "--model=DHAM", "--model.partition={run}/partition.json",
          "--trainer.max_steps=1", "--run_dir={run}/again"]],
    ),
    "act": (
        lambda run, base, draw: mutate_json(run / "test" / "act.json", base, draw),
        [["test", "--ckpt_path={run}", "--trainer.callbacks=callbacks.act.ACT",
          "--trainer.callbacks.heads={run}/test"]],
    ),
    "dpc": (
        lambda run, base, draw: mutate_json(run / "checkpoints" / "best.dpc.json", base, draw),
        [["test", "--ckpt_path={run}", "--trainer.callbacks=callbacks.dpc.DPC"]],
    ),
}  # fmt: skip
# Mostly checkpoints, which are what is shared most.
ORDER = ["checkpoint"] * 7 + ["partition", "act", "dpc"]


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict(command: list[str]) -> tuple[str, str]:
    """Run a command; return how it ends, and its error line."""
    try:
        with deadline(DEADLINE):
            outcome = call(*command)
    except Hang:
        return "HANG", ""
    except Exception as error:
        return "TRACEBACK", f"{type(error).__name__}: {error}".splitlines()[0]
    if "Traceback" in outcome.err:
        return "TRACEBACK", outcome.err.splitlines()[-1]
    if outcome.code and len(outcome.errors) != 1:
        return "NOT ONE LINE", outcome.err
    line = outcome.errors[0] if outcome.errors else ""
    if any(not character.isprintable() for character in line):
        return "RAW ESCAPES", repr(line)
    return {0: "read", 1: "stopped"}.get(outcome.code, "refused"), line


def attempts(base: Base, folder: Path, seed: int, count: int) -> Iterator[tuple[str, str, str]]:
    """Yield mutations, each with the verdict of a command that reads it and its error line."""
    tiny = base.run.parent / "tiny"
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        mutate, commands = TARGETS[ORDER[number % len(ORDER)]]
        run = folder / f"mutated-{number}"
        shutil.copytree(base.run, run)
        done = mutate(run, base, draw)
        command = draw.choice(commands)
        result, line = verdict(
            [command[0], *QUIET, *(part.format(run=run, tiny=tiny) for part in command[1:])]
        )
        if base.marker.exists():
            base.marker.unlink()
            result = "CODE RAN"
        if [path.name for path in base.victim.rglob("*")] != ["thesis.tex"]:
            result = "OUTSIDE CHANGED"
        shutil.rmtree(run)
        yield f"{number} {command[0]}: {done}", result, line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = make_base(folder)
        for done, result, line in attempts(base, folder, options.seed, options.count):
            counts[result] += 1
            print(f"{result:12} {done}  {line}".encode("ascii", "backslashreplace").decode(), flush=True)
    print(dict(counts))
    return 0 if counts.keys() <= {"read", "stopped", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())

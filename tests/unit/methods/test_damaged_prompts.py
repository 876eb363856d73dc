"""Folders of prompts that exist, are damaged or hostile."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.saved_prompts import load_prompt
from promptstage.utilities.errors import UserError
from tests.unit.methods.prompts import (
    assert_same,
    backbone,
    folder,
    trained,
)

__all__ = ["backbone", "folder"]  # fixtures


def test_the_same_prompt_may_be_saved_again(backbone: Backbone, tmp_path: Path) -> None:
    module = trained("prompt", backbone)
    module.save(tmp_path / "prompt")
    before = {file.name: file.read_bytes() for file in (tmp_path / "prompt").iterdir()}
    module.save(tmp_path / "prompt")
    (tmp_path / "prompt" / "prompt.json").unlink()  # a save that was interrupted
    module.save(tmp_path / "prompt")
    assert {file.name: file.read_bytes() for file in (tmp_path / "prompt").iterdir()} == before


@pytest.mark.parametrize("part", ["both", "prompt.safetensors", "prompt.json"])
def test_another_prompt_is_not_overwritten(part: str, backbone: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "prompt"
    trained("prompt", backbone, seed=1).save(folder)
    for file in list(folder.iterdir()):
        if part not in ("both", file.name):
            file.unlink()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match=r"^folder [^\n]* already has another prompt: save to a new folder$"):
        trained("prompt", backbone, seed=2).save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_failing_write_leaves_no_complete_folder(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise UserError("disk full")

    module = trained("prompt", backbone)
    with monkeypatch.context() as patch:
        patch.setattr("promptstage.lightning_modules.saved_prompts.write_text", fail)
        with pytest.raises(UserError, match="disk full"):
            module.save(tmp_path / "prompt")
    with pytest.raises(UserError, match=r"^folder [^\n]* has no prompt.json and no checkpoints$"):
        load_prompt(tmp_path / "prompt", backbone)
    module.save(tmp_path / "prompt")
    assert_same(load_prompt(tmp_path / "prompt", backbone), module)


def assert_refused(path: Path, backbone: Backbone, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_prompt(path, backbone)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def saved(backbone: Backbone, tmp_path: Path) -> Path:
    trained("DHAM with gates", backbone).save(tmp_path / "prompt")
    return tmp_path / "prompt"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("format",), 2, "has format 2, this version reads format 1"),
        (("format",), "1", "has format '1', this version reads format 1"),
        (("method",), "subprocess.Popen", "is of method subprocess.Popen, which is not one of promptstage's"),
        (("method",), "PromptTuning", "PromptTuning has no argument 'partition'"),
        (("method",), None, "field 'method'"),
        (("arguments",), None, "does not hold the arguments of DHAM"),
        (("arguments",), [], "field 'arguments'"),
        (("arguments", "num_virtual_tokens"), "7", "argument 'num_virtual_tokens'"),
        (("arguments", "num_virtual_tokens"), 8, "prompts.3 is (1, 32) there"),
        (("arguments", "num_virtual_tokens"), 10**12, "num_virtual_tokens must be <= 228"),
        (("arguments", "gate"), 1, "argument 'gate'"),
        (
            ("arguments", "mode"),
            "replcae",
            "must be 'accumulate' or 'replace', got 'replcae'",
        ),
        (("arguments", "init"), {"kind": "evil"}, "argument 'init'"),
        (("arguments", "optimizer", "lr"), -1, "optimizer lr must be > 0"),
        (("arguments", "stranger"), 1, "DHAM has no argument 'stranger'"),
        (("arguments", "backbone"), {"class_path": "os.system"}, "DHAM has no argument 'backbone'"),
        (("backbone",), {}, "it has no name"),
        (("fingerprint",), "0", "belongs to backbone"),
        (("structure",), {"stages": "0"}, "stages must be 0 as in the checkpoint, got"),
        (("text", "max_new_tokens"), 0, "max_new_tokens must be >= 1, got 0"),
        (("text", "stop"), [""], "stop holds an empty text"),
        (("text", "template"), "none", "template 'none' is unknown"),
        (("text", "date"), "today", "date must be in the form"),
        (("entries",), [], "field 'entries' is invalid"),
        (("entries", "state_dict"), {}, "field 'entries' is invalid"),
        (("entries", "partition"), {}, "the checkpoint's partition: field 'format' is missing"),
        (("entries", "partition_source"), 3, "partition_source"),
        (("sha256",), "0", "prompt.safetensors is damaged"),
        (("stranger",), 1, "must have the fields"),
    ],
    ids=str,
)
def test_a_changed_description_is_refused(
    saved: Path, backbone: Backbone, path: tuple[str, ...], value: Any, words: str
) -> None:
    values = json.loads((saved / "prompt.json").read_text(encoding="utf-8"))
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    (saved / "prompt.json").write_text(json.dumps(values), encoding="utf-8")
    assert_refused(saved, backbone, words)


@pytest.mark.parametrize("name", ["prompt.json", "prompt.safetensors"])
@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "noise", "folder"])
def test_a_damaged_file_is_refused(saved: Path, backbone: Backbone, name: str, kind: str) -> None:
    file = saved / name
    content = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        cut = content[: len(content) // 2]
        file.write_bytes({"empty": b"", "cut": cut, "noise": os.urandom(300)}[kind])
    assert_refused(saved, backbone, "prompt.json" if name == "prompt.json" else name)


def test_tensors_of_another_prompt_are_refused(saved: Path, backbone: Backbone, tmp_path: Path) -> None:
    trained("DHAM with gates", backbone, seed=2).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "prompt.safetensors", saved)
    assert_refused(saved, backbone, "prompt.safetensors is damaged: its digest is not that in")


def test_code_of_a_stored_backbone_is_not_run(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (saved / "prompt.json").read_text(encoding="utf-8")
    (saved / "prompt.json").write_text(text.replace('remote_code": false', 'remote_code": true'), "utf-8")
    seen: list[bool] = []
    monkeypatch.setattr(
        Backbone, "__init__", lambda self, config: seen.append(config.trust_remote_code) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        load_prompt(saved)
    assert seen == [False]


def test_other_paths_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    assert_refused(tmp_path, backbone, "has no prompt.json and no checkpoints")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert_refused(tmp_path / "run", backbone, "has no checkpoints/best.ckpt or checkpoints/last.ckpt")
    assert_refused(tmp_path / "none", backbone, "does not exist")
    (tmp_path / "noise").write_bytes(b"PK\x03\x04 noise")
    assert_refused(tmp_path / "noise", backbone, "truncated or not a checkpoint")

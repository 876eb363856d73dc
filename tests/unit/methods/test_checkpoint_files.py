"""Checkpoint files: whole or refused, nothing in them executed, the old one safe."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from promptstage.lightning_modules.checkpoints import PromptCheckpointIO, read_checkpoint
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import METHODS, method, moved, tiny_backbone


def checkpoint_of(name: str) -> dict[str, Any]:
    module = moved(name, tiny_backbone("llama"))
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(), "epoch": 1}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "last.ckpt"
    PromptCheckpointIO().save_checkpoint(checkpoint_of("dham"), path)
    return path


def assert_refused(path: Path, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", METHODS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    """What is written can be read without executing anything, and is what was written."""
    path = tmp_path / "last.ckpt"
    checkpoint = checkpoint_of(name)
    PromptCheckpointIO().save_checkpoint(checkpoint, path)
    for loaded in (
        torch.load(path, weights_only=True),
        read_checkpoint(path),
        PromptCheckpointIO().load_checkpoint(path),
    ):
        assert loaded["promptstage"] == checkpoint["promptstage"]
        assert sorted(loaded["state_dict"]) == sorted(checkpoint["state_dict"])
        for key, value in loaded["state_dict"].items():
            assert torch.equal(value, checkpoint["state_dict"][key])
    module = method(name, tiny_backbone("llama"))
    module.on_load_checkpoint(loaded)
    module.load_state_dict(loaded["state_dict"])


def test_nothing_of_the_backbone_is_written(written: Path) -> None:
    held = sum(tensor.numel() for tensor in read_checkpoint(written)["state_dict"].values())
    assert held == 7 * 32


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated(written: Path, share: float) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole[: int(len(whole) * share)])
    assert_refused(written, "truncated or not a checkpoint")


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "noise.ckpt"
    draw = torch.Generator().manual_seed(seed)
    path.write_bytes(bytes(torch.randint(0, 256, (3000,), generator=draw).tolist()))
    assert_refused(path, "truncated or not a checkpoint")


@pytest.mark.parametrize("form", ["pickle", "torch", "zip"])
def test_code_is_not_executed(tmp_path: Path, form: str) -> None:
    path, harm = tmp_path / "last.ckpt", tmp_path / "harm"
    content = {**checkpoint_of("prompt"), "extra": Bomb(harm)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert_refused(path, "truncated or not a checkpoint")
    assert not harm.exists()
    if form == "zip":  # the bomb is real
        assert zipfile.is_zipfile(path)
        torch.load(path, weights_only=False)
        assert harm.is_dir()


@pytest.mark.parametrize(
    "content", [{"state_dict": {}}, [1, 2], torch.zeros(2), {}], ids=["foreign", "list", "tensor", "empty"]
)
def test_not_ours(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    assert_refused(path, "was not written by promptstage")


def test_missing(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.ckpt", "does not exist")
    assert_refused(tmp_path, "is not a regular file")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk", "interrupt"])
def test_a_failing_write_leaves_the_old_file(
    written: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = written.read_bytes()

    def half(content: Any, file: Any) -> None:
        file.write(before[:100])
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(type(error)):
        PromptCheckpointIO().save_checkpoint({}, written)
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]


def test_a_crash_before_the_rename_leaves_the_old_file(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file gets its name only when it is complete."""
    before = written.read_bytes()
    seen: list[dict[str, Any]] = []

    def crash(source: Path, target: Path) -> None:
        seen.append(torch.load(source, weights_only=True))
        assert target == written
        assert target.read_bytes() == before
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(UserError, match="cannot be written: power cut"):
        PromptCheckpointIO().save_checkpoint(checkpoint_of("prompt"), written)
    assert seen[0]["promptstage"]["method"] == "PromptTuning"
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]

"""Links, pipes and devices in the place of a run's files are neither followed nor replaced."""

import os
import threading
from pathlib import Path

import pytest

from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, call


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_lock_that_is_not_a_regular_file_is_refused(kind: str, trained: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("content", encoding="utf-8")
    lock = trained / ".lock"
    {"link": lambda: lock.symlink_to(victim), "folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock)}[kind]()
    assert_one_error(call("fit", *QUIET, f"--ckpt_path={trained}"), ".lock cannot be written: it is a ")
    assert victim.read_text(encoding="utf-8") == "content"


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_linked_folders_of_a_run_are_refused(name: str, trained: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (trained / name).rename(elsewhere)
    (trained / name).symlink_to(elsewhere)
    before = sorted(path.name for path in elsewhere.iterdir())
    checkpoint = "--ckpt_path=run/checkpoints/last.ckpt"
    assert_one_error(
        call("fit", *QUIET, checkpoint, "--run_dir=run"), f"{name} cannot be written to: it is a link"
    )
    assert sorted(path.name for path in elsewhere.iterdir()) == before


def test_a_results_folder_that_is_a_link_is_not_followed(trained: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (trained / "validate").symlink_to(elsewhere)
    assert call("validate", *QUIET, f"--ckpt_path={trained}").code == 0
    assert not list(elsewhere.iterdir())
    assert (trained / "validate-2" / "summary.json").exists()


def test_answers_go_through_pipes_and_not_through_links(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.jsonl"
    target.write_text("kept", encoding="utf-8")
    Path("link.jsonl").symlink_to(target)
    predict = ("predict", *QUIET, f"--ckpt_path={trained}")
    assert_one_error(call(*predict, "--answers=link.jsonl", stdin="abc\n"), "link.jsonl is a link")
    assert (Path("link.jsonl").is_symlink(), target.read_text(encoding="utf-8")) == (True, "kept")
    os.mkfifo("pipe")
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(Path("pipe").read_text(encoding="utf-8")))
    reader.start()
    assert call(*predict, "--answers=pipe", stdin="abc\n").code == 0
    reader.join(10)
    assert received[0].startswith('{"id": "question/0"')


def test_a_pipe_is_refused_as_configuration_or_checkpoint(trained: Path, common: list[str]) -> None:
    os.mkfifo("pipe")
    assert_one_error(call("fit", *common, "-c", "pipe"), "configuration pipe is not a regular file")
    assert_one_error(call("fit", *QUIET, "--ckpt_path=pipe"), "checkpoint pipe")


def test_results_do_not_follow_linked_checkpoint_folders(trained: Path, tmp_path: Path) -> None:
    """A linked folder of checkpoints must not redirect results to another folder."""
    other = tmp_path / "other"
    other.mkdir()
    (trained / "checkpoints").rename(other / "checkpoints")
    (trained / "checkpoints").symlink_to(other / "checkpoints")
    for command in ("fit", "test", "calibrate"):
        assert_one_error(
            call(command, *QUIET, f"--ckpt_path={trained}"), "checkpoints cannot be written to: it is a link"
        )
    assert [path.name for path in other.iterdir()] == ["checkpoints"]


def test_results_of_a_users_own_link_to_a_run_are_in_the_run(trained: Path) -> None:
    Path("mine").symlink_to(trained)
    Path("mine.ckpt").symlink_to(trained / "checkpoints" / "best.ckpt")
    for checkpoint in ("mine", "mine.ckpt"):
        assert call("test", *QUIET, f"--ckpt_path={checkpoint}").code == 0
    assert (trained / "test-3" / "summary.json").exists()


@pytest.mark.parametrize(
    "name",
    ["checkpoints/best.ckpt", "prompt.safetensors", "prompt_last.safetensors", "tensorboard/hparams.yaml"],
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_fit_that_could_not_write_its_files_does_not_start(
    name: str, kind: str, trained: Path, tmp_path: Path
) -> None:
    file = trained / name
    file.unlink(missing_ok=True)
    if kind == "link":
        file.symlink_to(tmp_path / "created")
    else:
        os.mkfifo(file)
    outcome = call("fit", *QUIET, f"--ckpt_path={trained}", "--trainer.max_steps=5")
    assert_one_error(outcome, f"{name} cannot be written: it is a ")
    assert not (tmp_path / "created").exists()


def test_a_fit_does_not_start_without_its_event_folder(trained: Path) -> None:
    (trained / "tensorboard").rename("moved")
    os.mkfifo(trained / "tensorboard")
    assert_one_error(
        call("fit", *QUIET, f"--ckpt_path={trained}"), "tensorboard cannot be written to: it is not a folder"
    )


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_configuration_that_is_not_a_regular_file_is_not_replaced(kind: str, trained: Path) -> None:
    """Reading a pipe would block, and /dev/zero never ends."""
    file = trained / "config.yaml"
    file.unlink()
    {"link": lambda: file.symlink_to("/dev/zero"), "pipe": lambda: os.mkfifo(file), "folder": file.mkdir}[
        kind
    ]()
    outcome = call("fit", *QUIET, f"--ckpt_path={trained}", "--trainer.max_steps=5")
    assert outcome.code == 0, outcome.err
    assert (trained / "config-2.yaml").is_file()
    assert not file.is_file()


def test_a_threshold_file_that_is_a_circular_link_is_refused(trained: Path) -> None:
    (trained / "checkpoints" / "best.dpc.json").symlink_to("best.dpc.json")
    assert_one_error(call("calibrate", *QUIET, f"--ckpt_path={trained}"), "best.dpc.json cannot be written")

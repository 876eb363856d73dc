"""Folders of a run."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_only

from promptstage.callbacks.run.resumed import IDENTITY_FILE
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import FolderLock, check_replaceable, claim_folder, make_folder

# Folders and files that a fit writes to; lightning_logs is CSVLogger's.
FOLDERS = ("checkpoints", "tensorboard", "lightning_logs", "wandb")
REPLACED = (
    "tensorboard/hparams.yaml",
    "loggers.json",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "prompt.safetensors",
    "prompt_last.safetensors",
)


class Folders(NamedTuple):
    """Folder of the run, and output folder of this command.

    Attributes:
        run: folder of the run.
        out: output folder.
        created: ``out`` was created by this command, and is removed if the command fails at once.
        events: event files of earlier commands.
        lock: lock of the output folder.
        notice: reason why ``out`` is not the requested folder; empty if it is.
    """

    run: Path
    out: Path
    created: bool
    events: frozenset[Path]
    lock: FolderLock | None = None
    notice: str = ""

    def release(self) -> None:
        """Release the lock, so that other commands can write to the folder."""
        if self.lock is not None:
            self.lock.release()

    def discard(self) -> None:
        """Remove the files of a command that failed before it did any work."""
        self.release()
        if self.created:
            shutil.rmtree(self.out, ignore_errors=True)
        # Lightning opens an event file before anything can fail; the process id is part of its name.
        for file in _events(self.run) - self.events:
            if f".{os.getpid()}." in file.name:
                file.unlink(missing_ok=True)
        for folder in (self.run / "tensorboard", self.run):
            with contextlib.suppress(OSError):
                folder.rmdir()  # it is empty, then


def _events(run: Path) -> frozenset[Path]:
    return frozenset((run / "tensorboard").glob("events.*"))


def run_folders(
    run_dir: str | None, checkpoint: str | None, name: str, results: str | None = None, writes: bool = True
) -> Folders:
    """Choose and lock the folders of a run.

    A new run gets a new folder, numbered if ``run_dir`` already contains a run; a resumed fit continues in
    the run of its checkpoint. Results are written to a new folder in the run.

    Args:
        run_dir: folder of the run; None: the checkpoint's run, or ``runs/NAME`` without a checkpoint.
        checkpoint: path of the checkpoint, if any.
        name: default name of a new run's folder.
        results: name of the results folder in the run; None: results are written to the run folder.
        writes: False if the command writes no files.

    Raises:
        UserError: if a folder cannot be written to, or another command is writing to it.
    """
    if run_dir is None and checkpoint is not None:
        # Not resolved inside a run: links there are not followed.
        folder = Path(os.path.abspath(checkpoint)).parent
        if folder.name != "checkpoints":
            folder = Path(os.path.realpath(checkpoint)).parent
        run = folder.parent if folder.name == "checkpoints" else folder
    else:
        run = Path(run_dir or f"runs/{name}").expanduser()
    if run.is_symlink():  # the user's own link; those inside a run are not followed
        run = Path(os.path.realpath(run))
    _refuse_links(run)
    out = run if results is None else run / results
    # Only rank 0 writes; another rank must not number the new folder of rank 0.
    if not writes or vars(rank_zero_only).get("rank"):
        return Folders(run, out, created=False, events=_events(run))
    if results is None and checkpoint is not None:
        _check_resumable(run)
        created = not run.is_dir()
        make_folder(run)
        return Folders(run, run, created, _events(run), FolderLock(run))
    existed = out.is_dir()
    new, lock = claim_folder(out)
    notice = "" if new == out else f"{out} already exists and stays unchanged: writing to {new} instead"
    created = not (existed and new == out)
    return Folders(new if results is None else run, new, created, _events(run), lock, notice)


def interrupted_test(path: str) -> Path:
    """Return the folder of an interrupted test.

    Args:
        path: the folder, or a run whose newest test it is.

    Raises:
        UserError: if there is none, or the test is complete.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"folder {path} does not exist")
    own = [folder, *folder.glob("test"), *folder.glob("test-*")]
    interrupted = [test for test in own if (test / IDENTITY_FILE).is_file() and not _complete(test)]
    if not interrupted:
        raise UserError(f"{path} has no interrupted test: run 'promptstage test --ckpt_path {path}'")
    return max(interrupted, key=lambda test: (test / IDENTITY_FILE).stat().st_mtime)


def _complete(test: Path) -> bool:
    """Return whether a test has all of its files: the partial ones are removed last."""
    return (test / "results.jsonl").exists() and not any(test.glob("*.partial*.jsonl"))


def resumed_folders(folder: Path) -> Folders:
    """Lock the folder of an interrupted test, which goes on in it.

    Raises:
        UserError: if another command is writing to it.
    """
    run = folder.parent
    if vars(rank_zero_only).get("rank"):
        return Folders(run, folder, created=False, events=_events(run))
    return Folders(run, folder, False, _events(run), FolderLock(folder))


def _refuse_links(run: Path) -> None:
    """
    Raises:
        UserError: if a folder of the run is a link, so that files would be written elsewhere.
    """
    for name in FOLDERS:
        if (run / name).is_symlink():
            raise UserError(f"folder {run / name} cannot be written to: it is a link")


def _check_resumable(run: Path) -> None:
    """
    Raises:
        UserError: if a resumed fit could not write one of its files, so that its work would be lost.
    """
    for name in FOLDERS:
        if os.path.lexists(run / name) and not (run / name).is_dir():
            raise UserError(f"folder {run / name} cannot be written to: it is not a folder")
    for name in REPLACED:
        check_replaceable(run / name)

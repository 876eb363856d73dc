"""Detection of a rank that makes no progress while the others wait for it."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from promptstage.utilities.errors import printable

AFTER = 300.0  # seconds without progress
BEAT = 5.0  # seconds between heartbeats


class State(NamedTuple):
    """State that a rank reports.

    Attributes:
        name: rank, host name and process id.
        beats: number of heartbeats so far.
        marks: number of progress marks so far, such as the start of a training step.
        where: description of the last mark.
        waits: the rank may be waiting for other ranks after this mark.
    """

    name: str
    beats: int = 0
    marks: int = 0
    where: str = "its start"
    waits: bool = True


class Seen(NamedTuple):
    """Last known state of a rank, with the reader's times of its last heartbeat and last mark."""

    state: State
    beat: float
    mark: float


def stalled(seen: Mapping[int, Seen], now: float, after: float) -> str:
    """Describe the ranks without progress for ``after`` seconds; empty if all make progress.

    Ranks without a heartbeat come first: their process is stopped or lost. Otherwise the ranks that cannot be
    waiting for others are named, or all ranks if each may be waiting and none makes progress.
    """
    gone = [last.state for last in seen.values() if now - last.beat >= after]
    if gone:
        names = "; ".join(f"{state.name}, last in {state.where}" for state in gone)
        return f"no heartbeat for {after:.0f} s: it is stopped, or its machine is gone: {names}"
    if any(not last.state.marks for last in seen.values()):
        return ""  # rank 0 may work alone before the first step
    slow = [last.state for last in seen.values() if now - last.mark >= after]
    named = [state for state in slow if not state.waits] or (slow if len(slow) == len(seen) else [])
    names = "; ".join(f"{state.name} in {state.where}" for state in named)
    return f"no progress for {after:.0f} s: {names}" if named else ""


class StalledProcesses(L.Callback):
    """Warning about a rank without progress for five minutes; no process is ended.

    A thread of each rank writes heartbeats and the last progress mark to a file in a hidden folder of the
    run; the lowest live rank reads all files. A single step of five minutes is reported, too, such as a first
    compilation or a batch of long generations. After the start there is no communication between ranks.
    There is no warning if the folder is not writable, or not shared by the nodes.
    """

    def __init__(self) -> None:
        self.state = State("")
        self._ended = threading.Event()
        self._own: Path | None = None

    # --- progress -----------------------------------------------------------------------------------

    def _mark(self, where: str, waits: bool) -> None:
        self.state = self.state._replace(marks=self.state.marks + 1, where=where, waits=waits)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._mark(f"training step {trainer.global_step + 1}", waits=False)

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Any) -> None:
        self._mark(f"the backward pass of training step {trainer.global_step + 1}", waits=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        self._mark(f"the data of training step {trainer.global_step + 1}", waits=False)

    def _batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._mark(f"batch {batch_idx + 1} of {_stage(trainer)}", waits=False)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _batch_start

    def _batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        self._mark(f"{_stage(trainer)}, after a batch", waits=True)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _batch_end  # type: ignore[assignment]  # fewer arguments

    # --- watching -----------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self._own is not None:
            return
        # Rank 0 knows the run's folder, and names a folder for this job.
        folder: Path | None = (
            Path(trainer.default_root_dir) / f".processes-{socket.gethostname()}-{os.getpid()}"
        )
        if trainer.is_global_zero and folder is not None:
            try:
                folder.mkdir(parents=True)
            except OSError:
                folder = None
        folder = trainer.strategy.broadcast(folder)
        if folder is None:
            return
        rank = trainer.global_rank
        self.state = State(f"rank {rank} ({socket.gethostname()}, pid {os.getpid()})")
        self._own = folder / str(rank)
        threading.Thread(target=self._watch, args=(folder, rank, trainer.world_size), daemon=True).start()

    def _watch(self, folder: Path, own: int, count: int) -> None:
        start = time.monotonic()
        seen = {rank: Seen(State(f"rank {rank}"), start, start) for rank in range(count)}
        last_warning, beats = "", 0
        while not self._ended.wait(BEAT):
            beats += 1
            with contextlib.suppress(OSError):
                text = json.dumps(self.state._replace(beats=beats))
                (folder / str(own)).write_text(text, encoding="utf-8")
            now = time.monotonic()
            seen = {rank: _look(folder / str(rank), before, now) for rank, before in seen.items()}
            if own != min((rank for rank in seen if now - seen[rank].beat < AFTER), default=own):
                continue
            text = stalled(seen, now, AFTER)
            if text and text != last_warning:
                print(f"warning: {printable(text)}", file=sys.stderr, flush=True)
            last_warning = text

    def _end(self) -> None:
        self._ended.set()
        if self._own is not None:
            with contextlib.suppress(OSError):
                self._own.unlink()
            with contextlib.suppress(OSError):
                self._own.parent.rmdir()  # succeeds on the last rank

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._end()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._end()


def _stage(trainer: L.Trainer) -> str:
    stage = trainer.state.stage
    return "" if stage is None else stage.value.replace("_", " ")


def _look(file: Path, before: Seen, now: float) -> Seen:
    """Update the state of a rank from its file; a rank that has removed its file has ended."""
    try:
        state = State(*json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Seen(before.state, now, now) if before.state.beats else before
    except (OSError, ValueError, TypeError):
        return before  # the file is being written
    beat = before.beat if state.beats == before.state.beats else now
    mark = before.mark if state.marks == before.state.marks else now
    return Seen(state, beat, mark)

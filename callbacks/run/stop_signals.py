"""SIGTERM, SIGHUP, SIGUSR1: a fit ends after a complete step, the same on all ranks, with a checkpoint."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from promptstage.callbacks.run.results import Results
from promptstage.utilities.errors import printable

# Signals that end a command: a request to terminate, and a closed terminal.
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
REQUEUE = getattr(signal, "SIGUSR1", None)  # Windows has neither this nor SIGHUP


class StopSignals(L.Callback):
    """Orderly end of a fit whose machine is reclaimed.

    Lightning's handlers save, and communicate with other ranks, wherever the signal arrives, which may be
    within a reduction of gradients. Here a handler only sets a flag. Before each optimizer step the ranks
    reduce their flags, so that all end after the same step; :class:`LastCheckpoint` then writes
    ``last.ckpt``. After SIGUSR1, which SLURM sends before a time limit, the job is requeued.

    Evaluations write each finished batch to disk: SIGTERM and SIGHUP end a process at once, after a message
    that names its records. SIGUSR1 is ignored there, since a job that repeated its evaluation from the start
    would get no further. A SIGHUP that is ignored, as under ``nohup``, stays ignored.

    Attributes:
        stop_requested, requeue_requested: whether this rank received a signal.
        stop_agreed, requeue_agreed: whether any rank had received one at the last optimizer step.
    """

    def __init__(self) -> None:
        self.received = "SIGTERM"  # by this rank, or else by another
        self.stop_requested, self.requeue_requested = False, False
        self.stop_agreed, self.requeue_agreed = False, False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Lightning sets a handler of its own for SLURM's signal where there is none.
        if REQUEUE is not None and _in_main_thread():
            signal.signal(REQUEUE, signal.SIG_IGN)

    def _set_handlers(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's handlers, which it sets just before; it removes ours at the end."""

        def request(number: int, frame: FrameType | None) -> None:
            self.stop_requested = True
            self.requeue_requested |= number == REQUEUE
            self.received = signal.Signals(number).name

        def end(number: int, frame: FrameType | None) -> None:
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
            records = [callback.partial_results() for callback in callbacks if isinstance(callback, Results)]
            text = "; ".join(["the evaluation is not complete", *filter(None, records)])
            # Not print, which the signal may have interrupted.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{signal.Signals(number).name}: {printable(text)}\n".encode())
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        if not _in_main_thread():
            return  # Python runs handlers in the main thread only
        fits = trainer.state.fn == "fit"
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, request if fits else end)
        if fits and REQUEUE is not None:
            signal.signal(REQUEUE, request)

    on_sanity_check_start = on_train_start = _set_handlers
    on_validation_start = on_test_start = on_predict_start = _set_handlers

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Set on all ranks the flags that any rank has set."""
        flags = [self.stop_requested, self.requeue_requested]
        if trainer.world_size > 1:
            local = torch.tensor(flags, dtype=torch.float32, device=pl_module.device)
            flags = trainer.strategy.reduce(local, reduce_op="sum").bool().tolist()
        self.stop_agreed, self.requeue_agreed = flags

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if self.stop_agreed:
            raise SIGTERMException

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, SIGTERMException) and self.stop_agreed:
            name = "SIGUSR1" if self.requeue_agreed else self.received
            rank_zero_info(f"{name}: the run ends after step {trainer.global_step}")

    def give_back(self, trainer: L.Trainer) -> None:
        """Requeue the SLURM job after SIGUSR1, once the checkpoint is written."""
        job = slurm_job(os.environ)
        if not self.requeue_agreed or job is None:
            return
        if trainer.is_global_zero:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
            outcome = f"job {job} is back in the queue" if done.returncode == 0 else done.stderr.strip()
            print(f"SIGUSR1: {printable(outcome)}", file=sys.stderr)
        # A process that ends earlier would end the job, and its first process with it.
        trainer.strategy.barrier()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def slurm_job(environment: Mapping[str, str]) -> str | None:
    """Return this job's id for ``scontrol``; None outside SLURM.

    A task of an array is named by array and index: the job id of one task is that of the whole array.

    >>> slurm_job({"SLURM_JOB_ID": "4100", "SLURM_ARRAY_JOB_ID": "4100", "SLURM_ARRAY_TASK_ID": "7"})
    '4100_7'
    >>> slurm_job({"SLURM_JOB_ID": "4100"})
    '4100'
    """
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return environment.get("SLURM_JOB_ID")

"""SIGTERM, SIGHUP, SIGUSR1: a fit ends after a whole step, on all processes the same, with a checkpoint."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from promptstage.callbacks.results import Results
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.utilities.errors import printable

# Signals that end a command: a request to terminate, and a closed terminal.
ENDING = (signal.SIGTERM, signal.SIGHUP)


class StopSignals(L.Callback):
    """Ends a fit in good order where its machine is wanted back.

    Lightning's handlers save, and talk to the other processes, wherever the signal finds them, which may be
    within a reduction of gradients. Here a handler only takes a note. With the next step's loss the processes
    learn of each other's notes, and all end after that step; :class:`LastCheckpoint` then writes
    ``last.ckpt``. After SIGUSR1, which SLURM sends before a time limit, the job is put back in its queue.

    Evaluations write each finished batch to the disk: SIGTERM and SIGHUP end a process at once, after a
    message that names its records. SIGUSR1 is ignored there, since a job that began its evaluation anew would
    get no further. A SIGHUP that is ignored, as under ``nohup``, stays ignored.
    """

    def __init__(self) -> None:
        self.received = "SIGTERM"  # by this process, or else by another

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Lightning sets a handler of its own for SLURM's signal where there is none.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _take_notes(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's handlers, which it sets just before; it takes ours away at the end."""

        def note(number: int, frame: FrameType | None) -> None:
            assert isinstance(pl_module, SoftPromptModule)
            pl_module.stop_asked = True
            pl_module.requeue_asked |= number == signal.SIGUSR1
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

        fits = trainer.state.fn == "fit"
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, note if fits else end)
        if fits:
            signal.signal(signal.SIGUSR1, note)

    on_sanity_check_start = on_train_start = _take_notes
    on_validation_start = on_test_start = on_predict_start = _take_notes

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, SoftPromptModule)
        if pl_module.stop_agreed:
            raise SIGTERMException

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        assert isinstance(pl_module, SoftPromptModule)
        if isinstance(exception, SIGTERMException) and pl_module.stop_agreed:
            name = "SIGUSR1" if pl_module.requeue_agreed else self.received
            rank_zero_info(f"{name}: the run ends after step {trainer.global_step}")

    def give_back(self, trainer: L.Trainer) -> None:
        """After SIGUSR1, put the job back in SLURM's queue; the checkpoint is written."""
        job, module = slurm_job(os.environ), trainer.lightning_module
        assert isinstance(module, SoftPromptModule)
        if not module.requeue_agreed or job is None:
            return
        if trainer.is_global_zero:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
            said = f"job {job} is back in the queue" if done.returncode == 0 else done.stderr.strip()
            print(f"SIGUSR1: {printable(said)}", file=sys.stderr)
        # A process that ends earlier would end the job, and its first process with it.
        trainer.strategy.barrier()


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

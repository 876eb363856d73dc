"""SIGTERM and SIGUSR1: a fit ends after a whole step, on all processes the same, with a checkpoint."""

import os
import signal
import subprocess
import sys
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.base import SoftPromptModule


class StopSignals(L.Callback):
    """Ends a fit in good order where its machine is wanted back.

    Lightning's handlers save, and talk to the other processes, wherever the signal finds them, which may be
    within a reduction of gradients. Here a handler only takes a note. With the next step's loss the processes
    learn of each other's notes, and all end after that step; :class:`LastCheckpoint` then writes
    ``last.ckpt``. After SIGUSR1, which SLURM sends before a time limit, the job is put back in its queue.

    Evaluations have nothing to save: SIGTERM ends a process at once, and SIGUSR1 does nothing, for a job that
    began its evaluation anew would get no further.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Lightning sets a handler of its own for SLURM's signal where there is none.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _take_notes(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's handlers, which it sets just before; it takes ours away at the end."""
        if trainer.state.fn != "fit":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            return

        def note(number: int, frame: FrameType | None) -> None:
            assert isinstance(pl_module, SoftPromptModule)
            pl_module.stop_asked = True
            pl_module.requeue_asked |= number == signal.SIGUSR1

        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, note)

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
            name = "SIGUSR1" if pl_module.requeue_agreed else "SIGTERM"
            rank_zero_info(f"{name}: the run ends after step {trainer.global_step}")

    def give_back(self, trainer: L.Trainer) -> None:
        """After SIGUSR1, put the job back in SLURM's queue; the checkpoint is written."""
        job, module = os.environ.get("SLURM_JOB_ID"), trainer.lightning_module
        assert isinstance(module, SoftPromptModule)
        if not module.requeue_agreed or job is None:
            return
        if trainer.is_global_zero:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
            said = f"job {job} is back in the queue" if done.returncode == 0 else done.stderr.strip()
            print(f"SIGUSR1: {said}", file=sys.stderr)
        # A process that ends earlier would end the job, and its first process with it.
        trainer.strategy.barrier()

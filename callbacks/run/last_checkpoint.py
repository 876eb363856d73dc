"""``checkpoints/last.ckpt``: every few steps, and when training is interrupted or runs out of memory."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from promptstage.utilities.errors import UserError
from promptstage.utilities.failures import is_out_of_memory


class LastCheckpoint(ModelCheckpoint):
    """Checkpoint of the newest state: every N training steps, on Ctrl-C or SIGTERM, and out of memory."""

    def __init__(self, every_n_train_steps: int, **kwargs: Any) -> None:
        super().__init__(
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=False,
            save_on_exception=True,
            **kwargs,
        )
        self._first_step: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._first_step = trainer.global_step

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        # Not after an error, and not before the first step: the file would hold nothing new.
        if self._first_step is None or trainer.global_step <= self._first_step:
            return
        if isinstance(exception, KeyboardInterrupt | SystemExit):
            forget_unfinished_step(trainer)
            super().on_exception(trainer, pl_module, exception)
        elif is_out_of_memory(exception) and self._should_save_on_exception(trainer):
            forget_unfinished_step(trainer)
            try:
                self._save_alone(trainer)
            except (UserError, MemoryError, RuntimeError) as error:
                rank_zero_info(f"step {trainer.global_step} cannot be saved: {error}")
                return
        else:
            return
        rank_zero_info(
            f"step {trainer.global_step} is saved: resume with --ckpt_path {self.dirpath}/last.ckpt"
        )

    def _save_alone(self, trainer: L.Trainer) -> None:
        """Save on this rank alone: others may be in the middle of a step, and all hold the same state."""
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        trainer.strategy.checkpoint_io.save_checkpoint(state, Path(self.dirpath or ".") / "last.ckpt")


def forget_unfinished_step(trainer: L.Trainer) -> None:
    """Reset the progress within the epoch to the last complete step.

    Batches whose gradients were accumulated but not yet used are trained on again after a resume.
    """
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    if batches.current.ready == batches.current.processed:
        return  # not within a batch
    unused = batches.current.processed % trainer.accumulate_grad_batches
    for progress in (batches.current, batches.total):
        progress.ready -= unused
        progress.started -= unused
        progress.processed -= unused
        progress.completed -= unused

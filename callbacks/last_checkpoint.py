"""``checkpoints/last.ckpt``: every few steps, and when training is interrupted."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info


class LastCheckpoint(ModelCheckpoint):
    """Writes the newest state every ``every_n_train_steps`` and on Ctrl-C or SIGTERM."""

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
        # Not after a mistake, and not before a step was done: the file would say no more than before.
        interrupted = isinstance(exception, KeyboardInterrupt | SystemExit)
        if interrupted and self._first_step is not None and trainer.global_step > self._first_step:
            super().on_exception(trainer, pl_module, exception)
            rank_zero_info(
                f"step {trainer.global_step} is saved: --ckpt_path {self.dirpath}/last.ckpt goes on"
            )

"""Validation at the end of a fit that ends within an epoch."""

from typing import Any

import lightning as L


class FinalValidation(L.Callback):
    """Early stop at the last step, before which Lightning validates; without it, it does not.

    Args:
        step: the last step; None: the trainer's ``max_steps``.
    """

    def __init__(self, step: int | None = None) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step == (self.step or trainer.max_steps):
            trainer.should_stop = True
            # Lightning would delay the stop until these are reached, although max_steps ends the fit.
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None

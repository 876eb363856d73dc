"""A run that ``max_steps`` ends inside an epoch is validated all the same."""

from typing import Any

import lightning as L


class FinalValidation(L.Callback):
    """Asks for a stop at the last step: before an early stop Lightning validates, else it does not."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True
            # Lightning puts a stop off until these are reached, but ends at max_steps all the same.
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None

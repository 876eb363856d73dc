"""Training throughput in tokens per second: ``train/tokens_per_second``, over all ranks."""

import time
from typing import Any

import lightning as L

from promptstage.datamodules.encoding import Batch


class Throughput(L.Callback):
    """Log of content tokens per second of training time, without virtual tokens and padding."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self.started = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.seconds += time.perf_counter() - self.started
        self.tokens += int(batch.gold.attention_mask.sum())
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if (batch_idx + 1) % every == 0:
            rate = self.tokens / self.seconds * trainer.world_size
            pl_module.log("train/tokens_per_second", rate, batch_size=len(batch))
            self.tokens, self.seconds = 0, 0.0

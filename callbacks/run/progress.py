"""Progress bar that counts examples and shows the time of day at which it will end."""

import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf

from promptstage.callbacks.examples import data_of
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.utilities.progress import FORMAT, ExamplesTqdm


class ExamplesProgressBar(TQDMProgressBar):
    """Lightning's progress bar on standard error, in examples instead of batches."""

    _done = 0  # batches of the epoch before a resume

    def _bar(self, description: str, batch_size: int, leave: bool, split: str | None = None) -> Tqdm:
        bar = ExamplesTqdm(
            desc=description,
            disable=self.is_disabled,
            leave=leave,
            dynamic_ncols=True,
            file=sys.stderr,
            smoothing=0,
            bar_format=FORMAT,
            unit=" examples",
        )
        bar.batch_size = batch_size * self.trainer.world_size
        bar.examples = len(self._data.example_ids(split)) if split else None
        return bar

    @property
    def _data(self) -> ReasoningDataModule:
        return data_of(self.trainer)

    def init_train_tqdm(self) -> Tqdm:
        return self._bar(self.train_description, self._data.train_batch_size, True, "train")

    @property
    def total_train_batches(self) -> int | float:
        """Number of batches in this epoch, fewer if ``max_steps`` ends it; Lightning counts its steps."""
        trainer = self.trainer
        if trainer.max_steps < 0:
            return trainer.num_training_batches
        steps = max(0, trainer.max_steps - trainer.global_step)
        return min(trainer.num_training_batches, self._done + steps * trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start a bar with the total that Lightning leaves unset in an epoch resumed in the middle."""
        super().on_train_start(trainer, pl_module)
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        self._done = done if done < trainer.num_training_batches else 0
        bar = self.train_progress_bar
        bar.total, bar.initial, bar.n = convert_inf(self.total_train_batches), self._done, self._done
        bar.set_description(f"Epoch {trainer.current_epoch}", refresh=False)

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self._done = 0
        super().on_train_epoch_start(trainer, *args)

    def init_sanity_tqdm(self) -> Tqdm:
        return self._bar(self.sanity_check_description, self._data.eval_batch_size, False, "validation")

    def init_validation_tqdm(self) -> Tqdm:
        leave = self.trainer.state.fn != "fit"
        return self._bar(self.validation_description, self._data.eval_batch_size, leave, "validation")

    def init_test_tqdm(self) -> Tqdm:
        return self._bar(self.test_description, self._data.eval_batch_size, True, "test")

    def init_predict_tqdm(self) -> Tqdm:
        return self._bar(self.predict_description, self._data.eval_batch_size, True, "predict")

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close all bars, so that the error is printed on a line of its own."""
        for name in ("train", "val", "test", "predict"):
            if (bar := getattr(self, f"_{name}_progress_bar")) is not None:
                bar.close()

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the metrics of the bar without the logger's version number."""
        items = dict(super().get_metrics(trainer, pl_module))
        items.pop("v_num", None)
        return items

"""Progress bar that counts examples and shows the time of day at which it will end."""

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf

from promptstage.callbacks.examples import data_of
from promptstage.datamodules.base import ReasoningDataModule

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{rate_noinv_fmt}, ends {ends}{postfix}]"
LOG_SECONDS = 60.0  # minimum time between two lines in a log


class ExamplesTqdm(Tqdm):
    """tqdm bar over batches that counts examples and shows the time of day at which it will end.

    In a log file it is one line per minute, and one at the end.

    Attributes:
        batch_size: maximum number of examples in a batch.
        examples: number of examples in all batches, if known.
    """

    batch_size = 1
    examples: int | None = None
    disable: bool  # of tqdm, as the next one
    initial: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._next_line = time.monotonic() + LOG_SECONDS
        super().__init__(*args, **kwargs)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        if file.isatty():
            return Tqdm.status_printer(file)

        def line(text: str) -> None:
            if text.strip():
                print(text.strip(), file=file, flush=True)

        return line

    def display(self, *args: Any, **kwargs: Any) -> Any:
        if not self.fp.isatty():
            if time.monotonic() < self._next_line:
                return None
            self._next_line = time.monotonic() + LOG_SECONDS
        return super().display(*args, **kwargs)

    def moveto(self, n: int) -> None:
        if self.fp.isatty():
            super().moveto(n)

    def close(self) -> None:
        if not self.disable and not self.fp.isatty():
            self._next_line = 0.0  # the final state is always written,
            self.disable = not self.leave  # except of a bar that a terminal would erase
        super().close()

    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        batches, total, elapsed = values["n"], values["total"], values["elapsed"]
        values["ends"] = "--:--:--"
        if not total:
            return values
        # Batches may be smaller than batch_size: the last one, or all of them, if split evenly.
        examples = min(total * self.batch_size, self.examples or total * self.batch_size)
        values["n"], values["total"] = round(batches / total * examples), round(examples)
        new = batches - self.initial  # without those before a resume
        values["rate"] = new / total * examples / elapsed if elapsed else None
        if new > 0:
            left = elapsed * (total - batches) / new
            values["ends"] = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
        return values


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
        return self._bar(self.train_description, self._data.batch_size, True, "train")

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


def plain_bar(trainer: L.Trainer, description: str, total: int, unit: str) -> Tqdm:
    """Make a bar over ``total`` units, shown if the trainer shows a bar of this module."""
    shown = trainer.progress_bar_callback
    bar = ExamplesTqdm(
        desc=description,
        total=total,
        disable=not isinstance(shown, ExamplesProgressBar) or shown.is_disabled,
        leave=False,
        dynamic_ncols=True,
        file=sys.stderr,
        smoothing=0,
        bar_format=FORMAT,
        unit=f" {unit}",
    )
    bar.examples = total
    return bar

"""A progress bar that counts examples and says when it will end."""

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf

from promptstage.callbacks.examples import data_of
from promptstage.datamodules.base import ReasoningDataModule

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{rate_fmt}, ends {ends}{postfix}]"
LOG_SECONDS = 60.0  # between two lines in a log


class ExamplesTqdm(Tqdm):
    """A tqdm bar over batches that shows examples, and the time of day at which it will be full.

    In a log file it is a line now and then.

    Attributes:
        batch_size: most examples in a batch.
        examples: examples in all batches, where it is known.
    """

    batch_size = 1
    examples: int | None = None
    disable: bool  # tqdm's, as is the next one
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
            self._next_line = 0.0  # the last state is told in any case,
            self.disable = not self.leave  # unless it is one to wipe out, which cannot be done in a log
        super().close()

    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        batches, total, elapsed = values["n"], values["total"], values["elapsed"]
        values["ends"] = "--:--:--"
        if not total:
            return values
        # Batches may be smaller than they could be: the last one, or all of them, cut evenly.
        examples = min(total * self.batch_size, self.examples or total * self.batch_size)
        values["n"], values["total"] = round(batches / total * examples), round(examples)
        new = batches - self.initial  # a resumed epoch begins in the middle
        values["rate"] = new / total * examples / elapsed if elapsed else None
        if new > 0:
            left = elapsed * (total - batches) / new
            values["ends"] = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
        return values


class ExamplesProgressBar(TQDMProgressBar):
    """Lightning's bar in examples instead of batches, on standard error."""

    _done = 0  # batches of the epoch before the fit was resumed

    def _bar(self, description: str, batch_size: int, keep: bool, split: str | None = None) -> Tqdm:
        bar = ExamplesTqdm(
            desc=description,
            disable=self.is_disabled,
            leave=keep,
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
        """Number of batches in this epoch, fewer where ``max_steps`` ends it; Lightning counts its steps."""
        trainer = self.trainer
        if trainer.max_steps < 0:
            return trainer.num_training_batches
        steps = max(0, trainer.max_steps - trainer.global_step)
        return min(trainer.num_training_batches, self._done + steps * trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a bar; Lightning does not set its total in an epoch that is resumed in the middle."""
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
        keep = self.trainer.state.fn != "fit"
        return self._bar(self.validation_description, self._data.eval_batch_size, keep, "validation")

    def init_test_tqdm(self) -> Tqdm:
        return self._bar(self.test_description, self._data.eval_batch_size, True, "test")

    def init_predict_tqdm(self) -> Tqdm:
        return self._bar(self.predict_description, self._data.eval_batch_size, True, "predict")

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the bar's line, for what is told next."""
        for name in ("train", "val", "test", "predict"):
            if (bar := getattr(self, f"_{name}_progress_bar")) is not None:
                bar.close()

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Everything logged for the bar, without Lightning's version number of the logger."""
        items = dict(super().get_metrics(trainer, pl_module))
        items.pop("v_num", None)
        return items


def plain_bar(trainer: L.Trainer, description: str, total: int, unit: str) -> Tqdm:
    """A bar over ``total`` units, shown where the trainer has its own bar and shows it."""
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

"""Progress bars in examples, and in a log file as a line now and then."""

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{rate_noinv_fmt}, ends {ends}{postfix}]"
LOG_SECONDS = 60.0  # between two lines in a log


class ExamplesTqdm(Tqdm):
    """A tqdm bar over batches that shows examples, and the time of day at which it will end.

    In a log file it is a line now and then.

    Attributes:
        batch_size: maximum number of examples in a batch.
        examples: number of examples in all batches, if known.
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
            self._next_line = 0.0  # print the last state,
            self.disable = not self.leave  # unless the bar is to be erased, which a log file does not allow
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


def plain_bar(trainer: L.Trainer, description: str, total: int, unit: str) -> ExamplesTqdm:
    """Create a bar over ``total`` units, which is shown if the trainer shows a tqdm bar."""
    callback = trainer.progress_bar_callback
    bar = ExamplesTqdm(
        desc=description,
        total=total,
        disable=not isinstance(callback, TQDMProgressBar) or callback.is_disabled,
        leave=False,
        dynamic_ncols=True,
        file=sys.stderr,
        smoothing=0,
        bar_format=FORMAT,
        unit=f" {unit}",
    )
    bar.examples = total
    return bar

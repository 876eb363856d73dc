"""A progress bar that counts examples and says when it will end."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{rate_fmt}, ends {ends}{postfix}]"


class ExamplesTqdm(Tqdm):
    """A tqdm bar that knows the time of day at which it will be full."""

    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        n, total, elapsed = values["n"], values["total"], values["elapsed"]
        values["ends"] = "--:--:--"
        if n and total:
            left = elapsed * (total - n) / n
            values["ends"] = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
        return values


class ExamplesProgressBar(TQDMProgressBar):
    """Lightning's bar in examples (whole batches) instead of batches, on standard error."""

    def _bar(self, description: str, batch_size: int, keep: bool) -> Tqdm:
        return ExamplesTqdm(
            desc=description,
            disable=self.is_disabled,
            leave=keep,
            dynamic_ncols=True,
            file=sys.stderr,
            smoothing=0,
            bar_format=FORMAT,
            unit=" examples",
            unit_scale=batch_size * self.trainer.world_size,
        )

    @property
    def _batch_sizes(self) -> tuple[int, int]:
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return datamodule.batch_size, datamodule.eval_batch_size

    def init_train_tqdm(self) -> Tqdm:
        return self._bar(self.train_description, self._batch_sizes[0], keep=True)

    def init_sanity_tqdm(self) -> Tqdm:
        return self._bar(self.sanity_check_description, self._batch_sizes[1], keep=False)

    def init_validation_tqdm(self) -> Tqdm:
        return self._bar(self.validation_description, self._batch_sizes[1], keep=not self._is_fitting)

    def init_test_tqdm(self) -> Tqdm:
        return self._bar(self.test_description, self._batch_sizes[1], keep=True)

    def init_predict_tqdm(self) -> Tqdm:
        return self._bar(self.predict_description, self._batch_sizes[1], keep=True)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Everything logged for the bar, without Lightning's version number of the logger."""
        items = dict(super().get_metrics(trainer, pl_module))
        items.pop("v_num", None)
        return items

    @property
    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == "fit"

"""Lightning's ``LearningRateFinder`` in a run: its result is used, and is part of the run's configuration.

    promptstage fit --model PromptTuning --data GSM8K --trainer.callbacks LearningRateFinder \\
        --trainer.callbacks.min_lr 1e-4

The range test raises the rate from ``min_lr`` to ``max_lr`` within one short training: "Cyclical learning
rates for training neural networks", Smith, 2017, arXiv:1506.01186.
"""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.run.hyperparameters import Hyperparameters
from promptstage.callbacks.run.run_folder import RunFolder
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.objectives.reward import Reward
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import RunFailure, UserError

NAME = "trainer.callbacks: LearningRateFinder"
FEWEST_STEPS = 10  # of which the first tenth is left out


class FittedLearningRate(LearningRateFinder):
    """Mixin that runs a ``LearningRateFinder`` on a soft prompt, and stores its result in the run.

    Attributes:
        searching: the range test is running.
    """

    searching = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            UserError: with several ranks, an empty range, too few steps, or a training loss that is not a
                measure of progress.
        """
        check_minimum({f"{NAME}: num_training_steps": self._num_training_steps}, FEWEST_STEPS)
        if not 0 < self._min_lr < self._max_lr:
            raise UserError(f"{NAME}: min_lr must be > 0 and < max_lr {self._max_lr:g}, got {self._min_lr:g}")
        assert isinstance(pl_module, SoftPromptModule)
        if stage == "fit" and isinstance(pl_module.objective, Reward):
            raise UserError(
                f"{NAME} follows train/loss, which is not a measure of progress with objective.kind reward"
            )
        if stage == "fit" and trainer.world_size > 1:
            raise UserError(
                f"{NAME} runs on one rank, got {trainer.world_size}: use 'promptstage tune' first"
            )

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """
        Raises:
            UserError: when a fit is resumed, other than from the checkpoint of the range test.
        """
        if not self.searching and trainer.state.fn == "fit":
            raise UserError(f"{NAME} is for new fits: a resumed fit keeps its learning rate")

    def lr_find(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SoftPromptModule)
        before, generations, updates = pl_module.lr, pl_module.val_generations, self._update_attr
        pl_module.val_generations, self._update_attr, self.searching = 0, False, True
        try:
            super().lr_find(trainer, pl_module)
        except RunFailure as failure:
            raise RunFailure(f"{NAME}: {failure}; or lower --trainer.callbacks.max_lr") from failure
        finally:
            pl_module.val_generations, self._update_attr, self.searching = generations, updates, False
        if self.optimal_lr is None or not updates:
            return
        pl_module.lr = lr = suggested_rate(self.optimal_lr.results["lr"], self.optimal_lr.results["loss"])
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
            if isinstance(callback, RunFolder | Hyperparameters):
                callback.set_learning_rate(lr)
        rank_zero_info(f"LearningRateFinder: learning rate {lr:.3g} (it was {before:g})")


def suggested_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the learning rate at which the loss falls most steeply over the logarithm of the rate.

    Lightning's own suggestion takes the slope over the rate itself, which differences between the losses of
    tiny rates dominate. The first tenth of the rates is left out: the running mean of the loss begins there.

    Args:
        rates: ascending learning rates.
        losses: smoothed training loss at each; those that are not finite are left out.

    Raises:
        RunFailure: if there are too few losses.

    >>> suggested_rate([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [1.0, 0.99, 0.9, 0.2, 0.3])
    0.01
    """
    start = len(rates) // 10
    pairs = [pair for pair in zip(rates, losses, strict=True) if math.isfinite(pair[1])][start:]
    if len(pairs) < 2:
        raise RunFailure(f"{NAME} has too few finite losses: raise --trainer.callbacks.num_training_steps")
    logs = torch.tensor([math.log(rate) for rate, _ in pairs], dtype=torch.float64)
    slopes = torch.tensor([loss for _, loss in pairs], dtype=torch.float64).diff() / logs.diff()
    return pairs[int(slopes.argmin())][0]


def adapt(callbacks: Sequence[Any]) -> list[Any]:
    """Make the learning-rate finders among callbacks store their result in the run, and put them first.

    Other callbacks then see the result when a fit starts.
    """
    for callback in callbacks:
        if isinstance(callback, LearningRateFinder) and not isinstance(callback, FittedLearningRate):
            cls = type(callback)
            # A name of its own: the parser resolves classes by name.
            callback.__class__ = type(f"Fitted{cls.__name__}", (FittedLearningRate, cls), {})
    return sorted(callbacks, key=lambda callback: not isinstance(callback, LearningRateFinder))

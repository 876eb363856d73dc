"""User-supplied callbacks, added to those of a run or replacing them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    Checkpoint,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    ProgressBar,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.callbacks.finetuning import BaseFinetuning
from lightning.pytorch.utilities.model_helpers import is_overridden

from promptstage.callbacks.act.callback import ACT
from promptstage.callbacks.attention_budget.callback import AttentionBudget
from promptstage.callbacks.dpc.callback import DPC
from promptstage.callbacks.label_words.callback import LabelWords
from promptstage.callbacks.saliency.callback import SaliencyDiagnostics
from promptstage.utilities.errors import UserError, choose
from promptstage.utilities.processes import note

DIAGNOSTICS = (ACT, AttentionBudget, DPC, LabelWords, SaliencyDiagnostics)
"""Callbacks of promptstage that users add: each writes files into a run, and may be given only once."""

# Callbacks of Lightning that are not supported, and what to use instead.
UNSUPPORTED: dict[type[Callback], str] = {
    BatchSizeFinder: "its batch size would not be in the run's configuration: set --data.batch_size",
    GradientAccumulationScheduler: "set --trainer.accumulate_grad_batches, which applies to the whole run",
    BaseFinetuning: "the backbone stays frozen",
    ModelPruning: "the backbone stays frozen, and a prompt has no layers to prune",
    StochasticWeightAveraging: "it averages a copy that is made before the prompt is created",
    WeightAveraging: "it averages a copy that is made before the prompt is created",
}
# Metrics that a fit logs, for callbacks to monitor.
TRAIN_METRICS = ("train/loss", "train/prompt_norm", "train/lr", "train/tokens_per_second")
ACCURACY = ("val/accuracy", "val/accuracy_low", "val/accuracy_high")


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Check that the user's callbacks are supported.

    Raises:
        UserError: if a callback is not supported, or one of promptstage's is given twice.
    """
    seen = set()
    for callback in callbacks:
        name = type(callback).__name__
        for cls, reason in UNSUPPORTED.items():
            if isinstance(callback, cls):
                raise UserError(f"trainer.callbacks: {name} is not supported: {reason}")
        if isinstance(callback, DIAGNOSTICS):
            if name in seen:
                raise UserError(f"trainer.callbacks: {name} is given twice")
            seen.add(name)


def check_monitors(
    module: Any, callbacks: Iterable[Callback], early_stopping: EarlyStopping | None, val_batches: Any
) -> None:
    """Check that a fit logs the metrics that callbacks monitor.

    Args:
        early_stopping: that of the run, unless a callback replaces it.
        val_batches: the trainer's ``limit_val_batches``.

    Raises:
        UserError: naming the first metric that is not logged.
    """
    callbacks = list(callbacks)
    if any(
        not type(callback).__module__.startswith(("lightning.", "promptstage.")) for callback in callbacks
    ):
        return  # it may log further metrics
    if not type(module).__module__.startswith("promptstage."):
        return
    metrics = [*TRAIN_METRICS]
    if val_batches != 0:
        metrics += ["val/loss", *(ACCURACY if module.val_generations else ())]
    if any(isinstance(callback, LearningRateMonitor) for callback in callbacks):
        metrics.append(f"lr-{module.optimizer_config.optimizer_name}")
    stopping = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    # Without validation the run's early stopping is never called.
    if not stopping and early_stopping is not None and val_batches != 0:
        _check_stopping("early_stopping", early_stopping, metrics)
    for given in stopping:
        _check_stopping("trainer.callbacks", given, metrics)
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            choose("trainer.callbacks.monitor", callback.monitor, [*metrics, "epoch", "step"])
            _check_mode("trainer.callbacks", callback)


def _check_stopping(section: str, callback: EarlyStopping, metrics: list[str]) -> None:
    if callback.strict:
        choose(f"{section}.monitor", callback.monitor, metrics)
    _check_mode(section, callback)


def _check_mode(section: str, callback: EarlyStopping | ModelCheckpoint) -> None:
    """Raise a UserError where a higher accuracy would count as worse; Lightning's default is ``min``."""
    if callback.monitor in ACCURACY and callback.mode == "min":
        raise UserError(f"{section}.mode must be max for monitor {callback.monitor}, got min")


def as_list(value: Any) -> list[Any]:
    """Return the value of an option that takes one object or several as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def replace_progress_bar(ours: list[Any], callbacks: list[Any], enabled: bool | None) -> list[Any]:
    """Combine the callbacks of run and user; a progress bar of the user's replaces that of the run.

    Raises:
        UserError: if progress bars are disabled.
    """
    bars = [type(callback).__name__ for callback in callbacks if isinstance(callback, ProgressBar)]
    if bars and enabled is False:
        raise UserError(f"trainer.enable_progress_bar is false, but trainer.callbacks has a {bars[0]}")
    if bars:
        ours = [callback for callback in ours if not isinstance(callback, ProgressBar)]
    return [*ours, *callbacks]


def choose_early_stopping(callbacks: Iterable[Any], default: EarlyStopping | None) -> EarlyStopping | None:
    """Return the run's early stopping, or None if the user's callbacks have one."""
    given = next((callback for callback in callbacks if isinstance(callback, EarlyStopping)), None)
    if given is None or default is None:
        return default
    note(f"trainer.callbacks: {type(given).__name__} replaces the run's early_stopping")
    return None


def place_checkpoints(callbacks: list[Any], folder: Path | None) -> list[Any]:
    """Set the folder of checkpoint callbacks that have none.

    Args:
        folder: for checkpoints; None for a subcommand that writes none: such callbacks are then removed.
    """
    if folder is None:
        return [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder.resolve())
            # The run also writes last.ckpt, and does not write through links.
            callback.save_last = bool(callback.save_last) or None
    return callbacks


def distinguish(callbacks: Iterable[Any]) -> None:
    """Give callbacks unique state keys, so that none overwrites another's state in a checkpoint."""
    keys: set[str] = set()
    for callback in callbacks:
        if not is_overridden("state_dict", instance=callback, parent=Callback):
            continue
        own, key, number = callback.state_key, callback.state_key, 1
        while key in keys:
            number += 1
            key = f"{own} {number}"
        if number > 1:
            cls = type(callback)
            # A unique class name: the parser resolves classes by name.
            callback.__class__ = type(
                f"Further{cls.__name__}", (cls,), {"state_key": key, "__module__": cls.__module__}
            )
        keys.add(key)

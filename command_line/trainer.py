"""The trainer of each subcommand: its callbacks, logger and checkpoints."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import Precision

from promptstage.callbacks.act import ACT
from promptstage.callbacks.board import EventLog, StepAxis
from promptstage.callbacks.dpc import DPC
from promptstage.callbacks.early_stopping import EarlyStoppingReport
from promptstage.callbacks.final_validation import FinalValidation
from promptstage.callbacks.last_checkpoint import LastCheckpoint
from promptstage.callbacks.partition import CKAPartition
from promptstage.callbacks.progress import ExamplesProgressBar
from promptstage.callbacks.results import Results
from promptstage.callbacks.run_folder import RunFolder
from promptstage.callbacks.saliency import SaliencyDiagnostics
from promptstage.callbacks.stalled_processes import StalledProcesses
from promptstage.callbacks.stop_signals import StopSignals
from promptstage.callbacks.throughput import Throughput
from promptstage.command_line.folders import Folders
from promptstage.command_line.settings import as_list
from promptstage.command_line.user_callbacks import (
    check_callbacks,
    check_monitors,
    distinguish,
    place_checkpoints,
    replace_defaults,
)
from promptstage.lightning_modules.checkpointing import PromptCheckpointIO
from promptstage.lightning_modules.precision import check_precision
from promptstage.utilities.errors import UserError, nearest


class PromptTrainer(L.Trainer):
    """Lightning's trainer with one more thing to do."""

    def partition(self, model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
        """Find the stages of the backbone, and train nothing."""
        self.fit(model, datamodule=datamodule)

    def saliency(
        self, model: L.LightningModule, datamodule: L.LightningDataModule, ckpt_path: str | None = None
    ) -> list[Any]:
        """Answer questions while a callback looks at how.

        Args:
            ckpt_path: checkpoint, or the folder of a run, whose best one is taken.

        Returns:
            Each batch's answers.
        """
        return self.predict(model, datamodule=datamodule, ckpt_path=ckpt_path, return_predictions=True) or []

    def calibrate(
        self, model: L.LightningModule, datamodule: L.LightningDataModule, ckpt_path: str | None = None
    ) -> None:
        """Find DPC's threshold on the validation split, whose questions are answered twice."""
        self.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False)


def trainer_settings(
    wanted: str, config: Any, folders: Folders, text: str, hyperparameters: dict[str, Any]
) -> dict[str, Any]:
    """What a subcommand sets of the trainer, the user's own callbacks and plugins kept.

    Args:
        wanted: the subcommand.
        config: its configuration, classes instantiated.
        text: the configuration as YAML.
        hyperparameters: flat names and values shown beside the test metric.

    Raises:
        UserError: for a strategy, callback, logger or plugin that cannot work here.
    """
    check_strategy(config.trainer.strategy)
    check_precision(config.trainer.precision, config.trainer.accelerator)
    # The bar first: it leaves its line before others tell how a run has ended.
    callbacks: list[Any] = [] if config.trainer.enable_progress_bar is False else [ExamplesProgressBar()]
    callbacks += [StopSignals(), StalledProcesses()]
    if wanted != "predict" and not (wanted == "fit" and config.trainer.fast_dev_run):
        callbacks.append(RunFolder(folders.out, text, folders.notice))
    if wanted in ("fit", "partition"):
        callbacks.append(CKAPartition(folders.run))
    if wanted in ("fit", "validate", "test", "calibrate", "predict"):
        callbacks.append(Results(None if wanted in ("fit", "predict") else folders.out, hyperparameters))
    if wanted == "fit":
        callbacks += [StepAxis(), Throughput(), FinalValidation(), EarlyStoppingReport()]
        if config.trainer.enable_checkpointing is not False:
            callbacks += _checkpoints(folders.run / "checkpoints", config.save_every)
    if wanted == "saliency":
        callbacks.append(SaliencyDiagnostics(layers=config.layers, folder=folders.out))
    given = as_list(config.trainer.callbacks)
    check_callbacks(given)
    if wanted == "fit":
        check_monitors(config, given)
    given = place_checkpoints(given, folders.run / "checkpoints" if wanted == "fit" else None)
    callbacks = replace_defaults(config, given, callbacks)
    if wanted == "calibrate":
        callbacks = calibrating(callbacks)
    distinguish([*callbacks, *as_list(config.get("early_stopping"))])
    for callback in callbacks:
        if isinstance(callback, SaliencyDiagnostics | DPC | ACT) and wanted != "predict":
            callback.folder = callback.folder or folders.out  # predict writes answers alone
    settings: dict[str, Any] = {
        "callbacks": callbacks,
        "default_root_dir": str(folders.run),
        "plugins": [*_plugins(config.trainer.plugins), PromptCheckpointIO()],
    }
    if wanted != "fit":
        settings["enable_checkpointing"] = False
    if wanted == "partition":
        settings |= {"max_steps": 0, "num_sanity_val_steps": 0, "fast_dev_run": False, "log_every_n_steps": 1}
    # FSDP keeps the tensors that a first evaluation has made.
    if config.backbone.shard != "none" or any(getattr(one, "takes_gradients", False) for one in callbacks):
        settings["inference_mode"] = False
    if wanted in ("predict", "saliency"):
        settings["logger"] = False
    elif config.trainer.logger in (None, True):
        settings["logger"] = EventLog(folders.out, evaluates=wanted not in ("fit", "partition"))
    else:
        place_loggers(as_list(config.trainer.logger), folders.out)
    return settings


def check_strategy(strategy: Any) -> None:
    """
    Raises:
        UserError: if it is not supported for a frozen backbone, or copies a running process.
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    copies = name.endswith(("spawn", "fork", "notebook"))
    copies |= getattr(strategy, "_start_method", "popen") != "popen"
    if copies or not name.lower().startswith(("auto", "ddp", "singledevice")):
        raise UserError(
            f"trainer.strategy '{name}' is unknown: {nearest(name, ('auto', 'ddp'))}; a backbone too large "
            "for one device: --backbone.shard node"
        )


def _plugins(given: Any) -> list[Any]:
    """
    Raises:
        UserError: if a plugin would replace one of ours.
    """
    plugins = as_list(given)
    for plugin in plugins:
        reason = "set --trainer.precision" if isinstance(plugin, Precision) else ""
        if isinstance(plugin, CheckpointIO):
            reason = "checkpoints are written atomically by promptstage's own"
        if reason:
            raise UserError(f"trainer.plugins: {type(plugin).__name__} is not supported: {reason}")
    return plugins


def place_loggers(loggers: list[Any], folder: Path) -> None:
    """Set the folder of loggers without one to the command's output folder, unknown when they were made."""
    for logger in loggers:
        if isinstance(logger, CSVLogger | TensorBoardLogger) and not logger.save_dir:
            logger._root_dir = str(folder)
            if isinstance(logger, CSVLogger):
                logger._save_dir = str(folder)


def calibrating(callbacks: list[Any]) -> list[Any]:
    """The callbacks with one DPC that corrects everything and finds a threshold.

    Raises:
        UserError: when several are given, or one with a mode or threshold of its own.
    """
    given = [callback for callback in callbacks if isinstance(callback, DPC)]
    if len(given) > 1:
        raise UserError("calibrate takes one DPC callback")
    dpc = given[0] if given else DPC()
    if dpc.mode != "dpc" or dpc.threshold is not None:
        raise UserError("calibrate finds the threshold of mode dpc: give neither mode nor threshold")
    dpc.mode, dpc.calibrating = "all", True
    return [*(callback for callback in callbacks if callback is not dpc), dpc]


def _checkpoints(folder: Path, save_every: int) -> list[ModelCheckpoint]:
    common: dict[str, Any] = {
        "dirpath": str(folder),
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
    }
    return [
        ModelCheckpoint(
            filename="best", monitor="val/loss", save_top_k=1, save_on_train_epoch_end=False, **common
        ),
        LastCheckpoint(every_n_train_steps=save_every, **common),
        ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **common),
    ]

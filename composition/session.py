"""One use of Lightning's trainer in a run folder, with callbacks, logger and checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins import Precision

from promptstage.callbacks.act.files import FILE as ACT_FILE
from promptstage.callbacks.run.event_log import EventLog
from promptstage.callbacks.run.hyperparameters import Hyperparameters
from promptstage.callbacks.run.last_checkpoint import LastCheckpoint
from promptstage.callbacks.run.learning_rate import adapt
from promptstage.callbacks.run.progress import ExamplesProgressBar
from promptstage.callbacks.run.run_folder import RunFolder
from promptstage.callbacks.run.stalled_processes import StalledProcesses
from promptstage.callbacks.run.stop_signals import StopSignals
from promptstage.composition.folders import Folders
from promptstage.composition.loggers import place_loggers
from promptstage.composition.user_callbacks import (
    DIAGNOSTICS,
    as_list,
    check_callbacks,
    distinguish,
    place_checkpoints,
    replace_progress_bar,
)
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoints import PromptCheckpointIO
from promptstage.lightning_modules.precision import check_precision
from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.processes import check_machines

# Options of Lightning's trainer that every run sets.
DEFAULTS: dict[str, Any] = {
    "use_distributed_sampler": False,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
}


@dataclass
class Session:
    """One use of a trainer, with its output folders and the user's options.

    Attributes:
        folders: folders of the run.
        options: the user's options of Lightning's trainer: callbacks, logger, devices and so on.
        config: configuration of the run as YAML, stored with the results and in checkpoints.
        hyperparameters: values by flat names, for loggers.
        checkpoint: path of the checkpoint to load; None: use the module's weights.
        arguments: the command line, to resume an interrupted test by; empty in Python.
        made: the trainer, once it is created.
    """

    folders: Folders
    options: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    arguments: Sequence[str] = ()
    made: L.Trainer | None = None

    @property
    def callbacks(self) -> list[Any]:
        """The user's callbacks."""
        return as_list(self.options.get("callbacks"))

    def trainer(
        self,
        module: SoftPromptModule,
        own: Sequence[Any],
        *,
        writes_config: bool = True,
        writes_results: bool = True,
        logger: Any = None,
        checkpoints: Path | None = None,
        early_stopping: EarlyStopping | None = None,
        **settings: Any,
    ) -> L.Trainer:
        """Create the trainer, in addition to the user's callbacks, loggers and plugins.

        Args:
            own: callbacks of this use.
            writes_config: write the configuration to the output folder.
            writes_results: set the output folder of callbacks that write files.
            logger: default logger, used unless the user gave one; False: no logger.
            checkpoints: folder for checkpoints; None: no checkpoints.
            early_stopping: default callback, used unless the user gave one.
            settings: fixed options of the trainer.

        Raises:
            UserError: for a strategy, callback, logger or plugin that is not supported, and for diagnostics
                of a backbone that is quantized for generation.
        """
        out = self.folders.out
        check_strategy(self.options.get("strategy", "auto"))
        check_precision(self.options.get("precision"), self.options.get("accelerator", "auto"))
        # The bar first: it ends its line before other callbacks report the end of a run.
        bar = [] if self.options.get("enable_progress_bar") is False else [ExamplesProgressBar()]
        callbacks: list[Any] = [*bar, StopSignals(), StalledProcesses()]
        if writes_config:
            callbacks.append(RunFolder(out, self.config, self.folders.notice))
        check_callbacks(self.callbacks)
        for callback in [*own, *self.callbacks]:
            if isinstance(callback, DIAGNOSTICS):
                module.backbone_config.check_full_precision(type(callback).__name__)
        given = place_checkpoints(self.callbacks, checkpoints)
        callbacks = replace_progress_bar([*callbacks, *own], given, self.options.get("enable_progress_bar"))
        if early_stopping is not None:
            callbacks.append(early_stopping)
        callbacks = adapt(callbacks)
        distinguish(callbacks)
        for callback in callbacks:
            if isinstance(callback, DIAGNOSTICS) and writes_results:
                callback.folder = callback.folder or out
        settings |= {
            "callbacks": callbacks,
            "default_root_dir": str(self.folders.run),
            "plugins": [*_plugins(self.options.get("plugins")), PromptCheckpointIO()],
        }
        if checkpoints is None:
            settings["enable_checkpointing"] = False
        # FSDP reuses tensors that the first evaluation has created.
        needs_gradients = any(getattr(callback, "takes_gradients", False) for callback in callbacks)
        if module.backbone_config.shard != "none" or needs_gradients:
            settings["inference_mode"] = False
        if logger is False or self.options.get("logger") in (None, True):
            settings["logger"] = logger
        else:
            place_loggers(as_list(self.options["logger"]), out)
        self.made = L.Trainer(**(DEFAULTS | dict(self.options) | settings))
        check_machines(self.made)
        return self.made

    def discard_unused(self, trains: bool = False) -> None:
        """Remove a new folder without results after a failure.

        Args:
            trains: the folder is not removed after a step of training.
        """
        trained = trains and self.made is not None and self.made.global_step > 0
        out = self.folders.out
        if not trained and not [*out.glob("*.jsonl"), *out.glob(ACT_FILE)]:
            self.folders.discard()

    def shared(self, folder: Path) -> Path:
        """Return rank 0's name of a folder after a use of the trainer; other ranks do not know its number."""
        assert self.made is not None
        return Path(self.made.strategy.broadcast(str(folder)))

    def event_log(self, evaluates: bool) -> EventLog:
        """Return the run's TensorBoard logger."""
        return EventLog(self.folders.out, evaluates=evaluates)

    def hyperparameter_log(self, folder: Path | None) -> Hyperparameters:
        """Return the callback that logs hyperparameters, and writes ids of loggers to a folder."""
        return Hyperparameters(folder, self.hyperparameters)


def check_strategy(strategy: Any) -> None:
    """Check that a strategy is supported.

    Raises:
        UserError: if it does not support a frozen backbone, or copies a running process.
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
    """Return the user's plugins.

    Raises:
        UserError: if a plugin would replace one of promptstage's.
    """
    plugins = as_list(given)
    for plugin in plugins:
        reason = "set --trainer.precision" if isinstance(plugin, Precision) else ""
        if isinstance(plugin, CheckpointIO):
            reason = "checkpoints are written atomically by promptstage's own"
        if reason:
            raise UserError(f"trainer.plugins: {type(plugin).__name__} is not supported: {reason}")
    return plugins


def checkpoint_callbacks(
    folder: Path, save_every: int, monitor: tuple[str, str] = ("val/loss", "min")
) -> list[ModelCheckpoint]:
    """Return the callbacks that write ``best.ckpt`` and ``last.ckpt``.

    Args:
        save_every: optimizer steps between two writes of ``last.ckpt``.
        monitor: logged value that selects the best checkpoint, and its mode.
    """
    metric, mode = monitor
    common: dict[str, Any] = {
        "dirpath": str(folder),
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
    }
    return [
        ModelCheckpoint(
            filename="best",
            monitor=metric,
            mode=mode,
            save_top_k=1,
            save_on_train_epoch_end=False,
            **common,
        ),
        LastCheckpoint(every_n_train_steps=save_every, **common),
        ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **common),
    ]

"""Places and names of the user's loggers in a run, and the runs that they continue."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from promptstage.callbacks.run.hyperparameters import read_runs
from promptstage.callbacks.run.loggers import run_name
from promptstage.callbacks.run.writers import writer_of
from promptstage.utilities.errors import UserError


def place_loggers(loggers: Sequence[Any], folder: Path) -> None:
    """Set what was unknown when the loggers were created, where the user has not set it.

    Files go to the output folder, whose name becomes the name of the run. A command that continues in the
    folder of an earlier one, such as a requeued fit, continues the runs of W&B and MLflow of that one.

    Raises:
        UserError: if the list of these runs is damaged, or W&B has no API key.
    """
    runs = read_runs(folder)
    for logger in loggers:
        name = type(logger).__name__
        own = next((run for run in runs if run.logger == name), None)
        if own is not None:
            runs.remove(own)  # a second logger of the class has the second one
        id = None if own is None else own.id
        if isinstance(logger, CSVLogger) and not logger.save_dir:
            logger._root_dir = logger._save_dir = str(folder)
        elif isinstance(logger, TensorBoardLogger) and not logger.save_dir:
            _place_event_log(logger, folder)
        elif isinstance(logger, WandbLogger):
            _place_wandb(logger, folder, id)
        elif isinstance(logger, MLFlowLogger):
            logger._run_name = logger._run_name or run_name(folder)
            logger._run_id = logger._run_id or id
        if not writer_of(logger).media:
            rank_zero_info(f"note: {name} logs no figures and no text; figures are files in {folder}")


def _place_event_log(logger: TensorBoardLogger, folder: Path) -> None:
    logger._root_dir = str(folder)
    if logger._name == "lightning_logs" and logger._version is None:
        logger._name, logger._version = "", "tensorboard"  # as the default logger


def _place_wandb(logger: WandbLogger, folder: Path, id: str | None) -> None:
    if logger._experiment is not None:
        return
    settings = logger._wandb_init
    _check_login(
        logger._offline or settings.get("mode") or os.environ.get("WANDB_MODE", "online") != "online"
    )
    if settings.get("anonymous") is None:
        settings.pop("anonymous", None)  # wandb warns of an option that it no longer has
    if settings["dir"] == "." and "WANDB_DIR" not in os.environ:
        settings["dir"] = logger._save_dir = str(folder)
    if settings["name"] is None and "WANDB_NAME" not in os.environ:
        settings["name"] = logger._name = run_name(folder)
    if settings["id"] is None and "WANDB_RUN_ID" not in os.environ:
        settings["id"] = logger._id = id


@rank_zero_only
def _check_login(is_offline: object) -> None:
    """Check that there is an API key, or a terminal at which W&B will ask for one.

    Raises:
        UserError: if there is neither, before anything is loaded.
    """
    if is_offline:
        return
    import wandb

    try:
        reason = "" if wandb.login(prompt=False) or sys.stdin.isatty() else "no API key"
    except wandb.Error as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    if reason:
        raise UserError(
            f"trainer.logger: WandbLogger cannot log in ({reason}): run 'wandb login', or set "
            "--trainer.logger.offline true"
        )

"""Hyperparameters of a run in its loggers, and the ids by which a resumed run continues there."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L

from promptstage.callbacks.examples import data_of
from promptstage.callbacks.run.loggers import writers
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError, printable
from promptstage.utilities.files import write_text
from promptstage.utilities.reading import read_typed

FILE = "loggers.json"
LEARNING_RATE = "model.init_args.optimizer.lr"


@dataclass(frozen=True)
class LoggedRun:
    """A run of a logger that can be continued.

    Attributes:
        logger: class of the logger.
        id: W&B's or MLflow's id of the run.
    """

    logger: str
    id: str


class Hyperparameters(L.Callback):
    """Log of hyperparameters when a fit or an evaluation starts, and file of the ids of its loggers.

    Args:
        folder: output folder for ``loggers.json``; None: no file.
        values: flat names and values of the configuration.
    """

    def __init__(self, folder: Path | None, values: Mapping[str, Any]) -> None:
        self.folder = folder
        self.values = values

    def set_learning_rate(self, lr: float) -> None:
        """Replace the learning rate, before a fit starts."""
        self.values = {**self.values, LEARNING_RATE: lr}

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        name = self.values.get("data.init_args.task", data_of(trainer).name)
        row = table_row(type(pl_module).__name__, name, correction_of(trainer), self.values)
        runs = []
        for writer in writers(trainer):
            writer.hyperparameters(row)
            if run := writer.run_id():
                runs.append(LoggedRun(type(writer.logger).__name__, run))
        if runs and self.folder is not None:
            write_text(self.folder / FILE, json.dumps([asdict(run) for run in runs], indent=2) + "\n")

    on_fit_start = on_test_start = _log

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._log(trainer, pl_module)


def read_runs(folder: Path) -> list[LoggedRun]:
    """Read the runs that the loggers of an earlier command in the folder have; none without a file.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return []
    runs = read_typed(list[LoggedRun], path, "list of loggers")
    for run in runs:
        if not re.fullmatch(r"[\w-]{1,128}", run.id):
            raise UserError(
                f"list of loggers {path}: id must be of letters, digits, '-' and '_', got {run.id!r:.60}"
            )
    return runs


def correction_of(trainer: L.Trainer) -> str | None:
    """Return the name of the correction that a callback applies, such as ``DPC``."""
    names = [getattr(callback, "correction", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]  # set by a connector
    return next(filter(None, names), None)


def table_row(
    method: str, data: str, correction: str | None, options: Mapping[str, Any]
) -> dict[str, int | float | str]:
    """Return a run's row of the table of hyperparameters, options named as on the command line.

    Capitalized columns sort first.

    Args:
        options: flat configuration; unset options and defaults of the backbone are left out.
    """
    defaults = {
        f"backbone.{name}": value for name, value in asdict(BackboneConfig()).items() if name != "name"
    }
    row: dict[str, int | float | str] = {"Method": method, "Data": data, "Correction": correction or "none"}
    for key, value in options.items():
        name = key.replace(".init_args", "")
        if name == "seed_everything":
            row["Seed"] = value
        elif name.endswith("class_path") or value in (None, "None") or defaults.get(name) == value:
            continue
        else:
            row[name] = printable(value) if isinstance(value, str) else value
    return row

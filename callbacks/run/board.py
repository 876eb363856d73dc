"""TensorBoard logging: event folders, steps, figures, pages of text, the table of hyperparameters."""

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import printable
from promptstage.utilities.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class StepAxis(L.Callback):
    """Log steps of a fit that count finished optimizer steps; Lightning's begin at 0.

    The curves of a fit then end at the step of its last checkpoint, at which ``validate`` and ``test`` log.
    Applies to all loggers, and does not change when something is logged.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        connector = trainer._logger_connector
        original = type(connector).log_metrics

        def log_metrics(metrics: dict[str, Any], step: int | None = None) -> None:
            if step is None and "step" not in metrics and trainer.state.fn == TrainerFn.FITTING:
                metrics, step = {"epoch": trainer.current_epoch, **metrics}, logged_step(trainer)
            original(connector, metrics, step)

        vars(connector)["log_metrics"] = log_metrics


class EventLog(TensorBoardLogger):
    """TensorBoard logger of one command, with event files in ``tensorboard`` in its output folder.

    An evaluation logs to the folder of its results, apart from the curves of the fit.

    Args:
        folder: folder of the run, or of an evaluation's results.
        evaluates: omit the epoch, which is meaningless in an evaluation.
    """

    def __init__(self, folder: Path, evaluates: bool) -> None:
        super().__init__(str(folder), name="", version="tensorboard", default_hp_metric=False)
        self._evaluates = evaluates

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics; those of an evaluation without the epoch."""
        shown = {key: value for key, value in metrics.items() if key != "epoch" or not self._evaluates}
        super().log_metrics(shown, step)


def boards(trainer: L.Trainer) -> list[TensorBoardLogger]:
    """Return the trainer's TensorBoard loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def logged_step(trainer: L.Trainer) -> int:
    """Return the step of metrics and figures: the number of finished optimizer steps."""
    if trainer.state.fn == TrainerFn.FITTING:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_logged_step(trainer: L.Trainer, step: int) -> None:
    """Make an evaluation log at its checkpoint's step; by default Lightning logs at 0."""
    if trainer.state.fn != TrainerFn.FITTING:
        trainer.fit_loop.epoch_loop._batches_that_stepped = step


def run_name(folder: Path) -> str:
    """Return the name of a folder of results for titles of figures.

    >>> run_name(Path("/data/runs/first/test"))
    'first/test'
    """
    return "/".join(folder.resolve().parts[-2:])


def log_figures(
    trainer: L.Trainer,
    figures: Mapping[str, "Figure"],
    tag: str,
    folder: Path | None,
    prefix: str,
    step: int | None = None,
) -> None:
    """Write figures to ``folder/PREFIXNAME.png`` and log the same images as ``TAG/NAME``.

    Args:
        folder: None: log only.
        step: None: the number of finished optimizer steps.
    """
    from promptstage.callbacks.figures import png

    step = logged_step(trainer) if step is None else step
    for name, figure in figures.items():
        image = png(figure)  # once for all of them: rendering takes longer than everything else here
        if folder is not None:
            write_bytes(folder / f"{prefix}{name}.png", image)
        for logger in boards(trainer):
            _log_png(logger, f"{tag}/{name}", image, step)


def _log_png(logger: TensorBoardLogger, tag: str, image: bytes, step: int) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", image[16:24])  # of the header, which begins a PNG file
    shown = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=image)
    summary = Summary(value=[Summary.Value(tag=tag, image=shown)])
    logger.experiment._get_file_writer().add_summary(summary, step)


def log_page(trainer: L.Trainer, tag: str, parts: Iterable[str]) -> None:
    """Log parts of Markdown as one page of text."""
    for logger in boards(trainer):
        logger.experiment.add_text(tag, page(parts), logged_step(trainer))


def page(parts: Iterable[str]) -> str:
    """Join parts of Markdown with rules."""
    return "\n---\n\n".join(parts)


def log_scalars(trainer: L.Trainer, values: Mapping[str, float]) -> None:
    """Log scalars that belong to no metric of the module."""
    for logger in boards(trainer):
        for name, value in values.items():
            logger.experiment.add_scalar(name, value, logged_step(trainer))


def log_run(logger: TensorBoardLogger, values: Mapping[str, Any]) -> None:
    """Add the run to TensorBoard's table of hyperparameters; its metrics are the folder's scalars.

    Lightning's own call also writes a list of columns, which TensorBoard takes from a single run; without
    it, TensorBoard shows the columns of all runs, those that differ first.
    """
    from torch.utils.tensorboard.summary import hparams

    shown = {name: str(value) if isinstance(value, bool) else value for name, value in values.items()}
    logger.log_hyperparams(shown)  # to hparams.yaml alone
    _, start, end = hparams(shown, {})
    writer = logger.experiment._get_file_writer()
    for part in (start, end):
        writer.add_summary(part)


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


def code_block(lines: Iterable[str]) -> str:
    """Return text as a Markdown code block in which every character is shown literally.

    >>> code_block(["![](http://example.org)", "```", "<b>"])
    '````\\n![](http://example.org)\\n```\\n<b>\\n````\\n'
    """
    text = "\n".join(printable(part) for line in lines for part in line.split("\n"))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}\n"

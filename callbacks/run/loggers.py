"""Logging of scalars, figures and text to all loggers of a trainer, and of figures to files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from promptstage.callbacks.run.writers import Series, Writer, writer_of
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


def writers(trainer: L.Trainer) -> list[Writer]:
    """Return the writers to a trainer's loggers; none on other ranks than 0."""
    return [writer_of(logger) for logger in trainer.loggers] if trainer.is_global_zero else []


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
        for writer in writers(trainer):
            writer.image(f"{tag}/{name}", image, step)


def log_page(trainer: L.Trainer, tag: str, parts: Sequence[str]) -> None:
    """Log parts of Markdown as one page of text."""
    for writer in writers(trainer):
        writer.text(tag, parts, logged_step(trainer))


def log_scalars(trainer: L.Trainer, values: Mapping[str, float]) -> None:
    """Log scalars that belong to no metric of the module."""
    for writer in writers(trainer):
        writer.scalars(values, logged_step(trainer))


def log_series(trainer: L.Trainer, series: Series, own_run: Path, layout: Mapping[str, Any]) -> None:
    """Log curves over something other than training steps.

    Args:
        own_run: folder of a separate TensorBoard run, so that they are no metrics of this run.
        layout: of that run's custom scalars.
    """
    for writer in writers(trainer):
        writer.series(series, own_run, layout)


def log_histogram(trainer: L.Trainer, tag: str, values: Sequence[float]) -> None:
    """Log a histogram to TensorBoard and W&B."""
    for writer in writers(trainer):
        writer.histogram(tag, values, logged_step(trainer))


def log_charts(trainer: L.Trainer, layout: Mapping[str, Any]) -> None:
    """Log a layout of TensorBoard's custom scalars."""
    for writer in writers(trainer):
        writer.charts(layout)


def code_block(lines: Iterable[str]) -> str:
    """Return text as a Markdown code block in which every character is shown literally.

    >>> code_block(["![](http://example.org)", "```", "<b>"])
    '````\\n![](http://example.org)\\n```\\n<b>\\n````\\n'
    """
    text = "\n".join(printable(part) for line in lines for part in line.split("\n"))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}\n"

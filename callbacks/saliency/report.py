"""Report of saliency measures: files, a line in the terminal, loggers, figures."""

from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.run.loggers import log_figures
from promptstage.callbacks.saliency.charts import log_by_layer, log_over_steps
from promptstage.callbacks.saliency.files import Saved, load
from promptstage.callbacks.saliency.matrix import ExampleMatrices, Kind, Matrix
from promptstage.utilities.files import make_folder

STEPS = "saliency_steps"  # folder of a fit's measures, in the run's folder


def report(
    trainer: L.Trainer, folder: Path, saved: Saved, matrices: ExampleMatrices | None, first: bool
) -> None:
    """Write files, print a summary, log scalars and draw figures.

    Args:
        folder: folder of the run, or of an evaluation's results.
        first: add the layout of TensorBoard's custom scalars, once in a fit.
    """
    from promptstage.callbacks.saliency.figures import all_figures, summary_line

    learning = trainer.state.fn == TrainerFn.FITTING
    folder = folder / STEPS if learning else folder
    stem = f"step_{trainer.global_step:06d}" if learning else "saliency"
    make_folder(folder)
    saved.write(folder, stem)
    if matrices is not None:
        matrices.write(folder, stem)
    if learning:
        log_over_steps(trainer, saved, first)
    else:
        log_by_layer(trainer, folder, saved)
    if len(saved.ids) > 1:
        rank_zero_info(f"{summary_line(saved)}; files: {folder / stem}*")
    elif trainer.state.fn != TrainerFn.PREDICTING:
        rank_zero_info(f"saliency of 1 example (no comparison); files: {folder / stem}*")
    if learning:
        return  # at the end of fit there is one figure of all steps
    shown: dict[Kind, Matrix] = {}
    if matrices is not None:
        shown = {"saliency": matrices.saliency, "attention": matrices.attention}
    log_figures(trainer, all_figures(saved, shown), "saliency", folder, f"{stem}_")


def draw_steps(trainer: L.Trainer, folder: Path) -> None:
    """Draw the flow over the steps of a fit, from the files that it has written."""
    from promptstage.callbacks.saliency.curves import while_learning

    folder = folder / STEPS
    stems = sorted(path.stem for path in folder.glob("step_*.jsonl"))
    if len(stems) < 2:
        rank_zero_info(
            f"saliency was measured at {len(stems)} steps: the figure over training needs at least 2"
        )
        return
    steps = [int(stem.rpartition("_")[2]) for stem in stems]
    figure = while_learning(steps, [load(folder, stem) for stem in stems])
    log_figures(trainer, {"while_learning": figure}, "saliency", folder, "")

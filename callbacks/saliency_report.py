"""Report of measured saliency: files, a line in the terminal, TensorBoard, figures."""

from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.board import boards, logged_step
from promptstage.callbacks.saliency_charts import log_by_layer, log_over_steps
from promptstage.callbacks.saliency_files import Saved, load
from promptstage.callbacks.saliency_matrix import ExampleMatrices, Kind, Matrix
from promptstage.utilities.files import make_folder, write_bytes

STEPS = "saliency_steps"  # what fit sees, in the run's folder


def report(
    trainer: L.Trainer, folder: Path, saved: Saved, matrices: ExampleMatrices | None, first: bool
) -> None:
    """Write, print, log and draw.

    Args:
        folder: of the run, or of an evaluation's results.
        first: add the layout of TensorBoard's custom scalars, once in a fit.
    """
    from promptstage.callbacks.figures import png
    from promptstage.callbacks.saliency_figures import all_figures, told

    learning = trainer.state.fn == TrainerFn.FITTING
    folder = folder / STEPS if learning else folder
    stem = f"step_{trainer.global_step:06d}" if learning else "saliency"
    make_folder(folder)
    saved.write(folder, stem)
    if matrices is not None:
        matrices.write(folder, stem)
    loggers, step = boards(trainer), logged_step(trainer)
    for logger in loggers if learning else ():
        log_over_steps(logger, saved, step, first)
    if loggers and not learning:
        log_by_layer(folder, saved, step)
    if len(saved.ids) > 1:
        rank_zero_info(f"{told(saved)}; in {folder / stem}*")
    elif trainer.state.fn != TrainerFn.PREDICTING:
        rank_zero_info(f"saliency of 1 example: there is nothing to compare it with; in {folder / stem}*")
    if learning:
        return  # one figure of all steps at the end; ``saliency_figures.draw`` draws any step's
    shown: dict[Kind, Matrix] = {}
    if matrices is not None:
        shown = {"saliency": matrices.saliency, "attention": matrices.attention}
    for name, figure in all_figures(saved, shown).items():
        write_bytes(folder / f"{stem}_{name}.png", png(figure))
        for logger in loggers:
            logger.experiment.add_figure(f"saliency/{name}", figure, step, close=False)


def draw_steps(trainer: L.Trainer, folder: Path) -> None:
    """Draw how the flow changed while the prompt learnt, from what this fit has saved."""
    from promptstage.callbacks.figures import png
    from promptstage.callbacks.saliency_curves import while_learning

    folder = folder / STEPS
    stems = sorted(path.stem for path in folder.glob("step_*.jsonl"))
    if len(stems) < 2:
        rank_zero_info(
            f"saliency was measured at {len(stems)} steps: a figure of its change needs at least 2"
        )
        return
    steps = [int(stem.rpartition("_")[2]) for stem in stems]
    figure = while_learning(steps, [load(folder, stem) for stem in stems])
    write_bytes(folder / "while_learning.png", png(figure))
    for logger in boards(trainer):
        logger.experiment.add_figure("saliency/while_learning", figure, logged_step(trainer))

"""TensorBoard scalars of saliency by layer, and custom-scalar charts over all layers."""

import re
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from promptstage.callbacks.saliency.files import Saved

# Titles of an evaluation's charts, and the names of their measures.
CHARTS = {
    "flow": ".*_to_.*",
    "share of the flow to the second half": "share_from_.*",
    "attention rollout": "rollout_from_.*",
    "mean over all visible pairs": "curve",
}


def charts(measures: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of measures by the chart that shows them; shares have their own scale."""
    names = list(measures)
    shown = {title: [name for name in names if re.fullmatch(CHARTS[title], name)] for title in CHARTS}
    return {title: chosen for title, chosen in shown.items() if chosen}


def log_over_steps(logger: TensorBoardLogger, saved: Saved, step: int, first: bool) -> None:
    """Log each layer's means at a step of the fit; on ``first``, add a chart of all layers per measure."""
    measures = saved.by_layer()
    for name, values in measures.items():
        for layer, value in values.items():
            logger.experiment.add_scalar(f"saliency/{name}/layer_{layer:02d}", value, step)
    scalars = saved.scalars()
    for name, value in scalars.items():
        logger.experiment.add_scalar(f"saliency/{name}", value, step)
    if not first:
        return
    layout = {name: ["Multiline", [f"saliency/{name}/layer_.*"]] for name in measures}
    layout |= {name: ["Multiline", [f"saliency/{name}"]] for name in scalars}
    logger.experiment.add_custom_scalars({"saliency over steps": layout})


def log_by_layer(folder: Path, saved: Saved, step: int) -> None:
    """Log an evaluation's means with the layer as step, and charts of the measures, as a separate run.

    In the evaluation's own run they would appear as metrics in the table of hyperparameters. S_IFP and the
    share of examples with accumulation, which have no layer, are logged at ``step``.
    """
    from torch.utils.tensorboard import SummaryWriter

    measures = saved.by_layer()
    with SummaryWriter(str(folder / "by_layer")) as writer:
        for name, values in measures.items():
            for layer, value in values.items():
                writer.add_scalar(f"saliency/by_layer/{name}", value, layer)
        for name, value in saved.scalars().items():
            writer.add_scalar(f"saliency/{name}", value, step)
        layout = {title: ["Multiline", [f"saliency/by_layer/{CHARTS[title]}"]] for title in charts(measures)}
        writer.add_custom_scalars({"saliency by layer": layout})

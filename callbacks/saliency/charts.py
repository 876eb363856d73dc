"""Scalars of saliency by layer, and TensorBoard's custom-scalar charts over all layers."""

import re
from collections.abc import Iterable
from pathlib import Path

import lightning as L

from promptstage.callbacks.run.loggers import log_charts, log_scalars, log_series, logged_step
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


def log_over_steps(trainer: L.Trainer, saved: Saved, first: bool) -> None:
    """Log each layer's means at a step of the fit; on ``first``, add a chart of all layers per measure."""
    measures, scalars = saved.by_layer(), saved.scalars()
    values = {
        f"saliency/{name}/layer_{layer:02d}": value
        for name, layers in measures.items()
        for layer, value in layers.items()
    }
    log_scalars(trainer, values | {f"saliency/{name}": value for name, value in scalars.items()})
    if first:
        layout = {name: ["Multiline", [f"saliency/{name}/layer_.*"]] for name in measures}
        layout |= {name: ["Multiline", [f"saliency/{name}"]] for name in scalars}
        log_charts(trainer, {"saliency over steps": layout})


def log_by_layer(trainer: L.Trainer, folder: Path, saved: Saved) -> None:
    """Log an evaluation's means with the layer as step, and charts of the measures, in TensorBoard as a run.

    In the evaluation's own run they would appear as metrics in the table of hyperparameters. S_IFP and the
    share of examples with accumulation, which have no layer, are logged at the checkpoint's step.
    """
    measures = saved.by_layer()
    series = {f"saliency/by_layer/{name}": values for name, values in measures.items()}
    series |= {f"saliency/{name}": {logged_step(trainer): value} for name, value in saved.scalars().items()}
    layout = {title: ["Multiline", [f"saliency/by_layer/{CHARTS[title]}"]] for title in charts(measures)}
    log_series(trainer, series, folder / "by_layer", {"saliency by layer": layout})

"""Figures of saliency, drawn from what ``SaliencyDiagnostics`` saved: no model is needed.

``draw(folder)`` draws them all again. Layers are numbered from 0, as everywhere in the project.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from callbacks.figures import png
from lightning_modules.functional.information_flow import change_given_accumulation
from utilities.errors import UserError
from utilities.files import write_bytes

Floats = NDArray[np.float64]
RIGHT, WRONG, NEUTRAL = "#0072b2", "#d55e00", "#555555"
SHOWN = 20  # examples in a heat map


@dataclass(frozen=True)
class Saved:
    """Arrays (N examples first), their layers, and whether each example was answered correctly.

    Attributes:
        correct: (N,) 1, 0, or NaN where it was not answered.
        accumulated: (N,) bool, whether a virtual token accumulates in some layer.
    """

    arrays: Mapping[str, Floats]
    layers: Sequence[int]
    correct: Floats
    accumulated: NDArray[np.bool_]

    @property
    def both(self) -> bool:
        """Whether there are correct and incorrect examples to compare."""
        return bool((self.correct == 1).any() and (self.correct == 0).any())


def load(folder: Path, stem: str = "saliency") -> Saved:
    """What was saved in a folder.

    Raises:
        UserError: when there is nothing, or it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        lines = (folder / f"{stem}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        with safe_open(folder / f"{stem}.safetensors", "np") as file:
            names = list(file.keys())
            arrays = {name: np.asarray(file.get_tensor(name), dtype=float) for name in names}
            layers = json.loads(file.metadata()["layers"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"no saliency can be read from {folder}: {error}") from error
    correct = [np.nan if row["correct"] is None else float(row["correct"]) for row in rows]
    accumulated = np.array([row["accumulation"] is not None for row in rows])
    return Saved(arrays, layers, np.array(correct), accumulated)


def all_figures(saved: Saved) -> dict[str, Figure]:
    """Every figure that these examples allow, by name; comparisons need correct and incorrect ones."""
    drawn: dict[str, Callable[[Saved], Figure]] = {
        "flows": flows,
        "accumulation": accumulation,
        "differences": differences,
        "summary": summary,
    }
    if saved.both:
        drawn |= {"late_flow": late_flow, "gap": gap}
    return {name: draw_one(saved) for name, draw_one in drawn.items()}


def draw(folder: Path, stem: str = "saliency") -> list[Path]:
    """Draw all figures of a folder again, as PNG beside what was saved."""
    paths = []
    for name, figure in all_figures(load(folder, stem)).items():
        paths.append(folder / f"{stem}_{name}.png")
        write_bytes(paths[-1], png(figure))
    return paths


def normalised(curves: Floats) -> Floats:
    """Each example's curve (N, K) between its own least (0) and greatest (1) value; a flat one is 0."""
    low, high = curves.min(1, keepdims=True), curves.max(1, keepdims=True)
    return (curves - low) / np.where(high > low, high - low, 1)


def flows(saved: Saved) -> Figure:
    """S_pq and S_pr by layer, mean and quartiles; dashed without the first virtual token (DPC Fig. 2a)."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("question", "rationale"), strict=True):
        _band(axes, saved.layers, saved.arrays[f"to_{name}"], RIGHT, "whole prompt")
        rest = np.nanmean(saved.arrays[f"rest_to_{name}"], axis=0)
        axes.plot(saved.layers, rest, "--", color=NEUTRAL, label="without its first token")
        axes.set_title(f"prompt to {name}", fontsize=10)
        axes.set_xlabel("layer")
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("mean saliency")
    return figure


def accumulation(saved: Saved, quantile: float = 0.75) -> Figure:
    """P(the late flow changes) with accumulation and without (DPC Fig. 4a).

    The paper gives no threshold for a change: here it is a quantile of these examples' S_IFP.
    """
    late = saved.arrays["late"]
    found = change_given_accumulation(late > np.nanquantile(late, quantile), saved.accumulated)
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.add_subplot()
    counts = (found.accumulated, found.examples - found.accumulated)
    names = [f"accumulation\n(n = {counts[0]})", f"none\n(n = {counts[1]})"]
    axes.bar(names, np.nan_to_num([found.with_accumulation, found.without]), color=[WRONG, RIGHT])
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"share with S_IFP above its {quantile:.0%} quantile")
    return figure


def late_flow(saved: Saved) -> Figure:
    """S_IFP of correct and incorrect examples, with a two-sided Mann-Whitney test (DPC Fig. 4b, c)."""
    from scipy.stats import mannwhitneyu

    late = saved.arrays["late"]
    right, wrong = late[saved.correct == 1], late[saved.correct == 0]
    test = mannwhitneyu(wrong, right)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, box = figure.subplots(1, 2, width_ratios=[2, 1])
    bins = np.histogram_bin_edges(late, bins=30)
    for values, colour, name in ((right, RIGHT, "correct"), (wrong, WRONG, "incorrect")):
        weights = np.full(len(values), 1 / len(values))
        label = f"{name} (n = {len(values)})"
        left.hist(values, bins, weights=weights, color=colour, alpha=0.6, label=label)
    left.set_xlabel("S_IFP: prompt to the rationale's second half, last layer")
    left.set_ylabel("share of examples")
    left.legend(frameon=False)
    box.boxplot([right, wrong], tick_labels=["correct", "incorrect"], showfliers=False)
    # The chance that an incorrect example has the greater flow.
    greater = test.statistic / (len(right) * len(wrong))
    figure.suptitle(
        f"P(incorrect > correct) = {greater:.3f}, Mann-Whitney p = {test.pvalue:.2g}", fontsize=10
    )
    return figure


def curves(named: Mapping[str, Saved]) -> Figure:
    """Normalised layer curves of several runs, such as insertion at several layers (DHAM Fig. 1, 6, 7)."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    colours = (RIGHT, WRONG, "#009e73", "#cc79a7", "#e69f00", NEUTRAL)
    for i, (name, saved) in enumerate(named.items()):
        _band(axes, saved.layers, normalised(saved.arrays["curve"]), colours[i % len(colours)], name)
    axes.set_xlabel("layer")
    axes.set_ylabel("saliency, each example from 0 to 1")
    axes.legend(frameon=False)
    return figure


def differences(saved: Saved) -> Figure:
    """What the curve changes by from each layer to the next, example by example (DHAM Fig. 2)."""
    steps = np.diff(normalised(saved.arrays["curve"])[:SHOWN], axis=1)
    most = max(float(np.abs(steps).max(initial=0)), 1e-12)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    places = (saved.layers[0] + 0.5, saved.layers[-1] + 0.5, len(steps) - 0.5, -0.5)
    image = axes.imshow(steps, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", extent=places)
    axes.set_xlabel("to layer")
    axes.set_ylabel("example")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes, label="change of saliency from the layer before")
    return figure


def gap(saved: Saved) -> Figure:
    """Curves of correct and incorrect examples, and their difference by layer (DHAM Fig. 8)."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _compared(left, saved)
    values = normalised(saved.arrays["curve"])
    difference = values[saved.correct == 1].mean(0) - values[saved.correct == 0].mean(0)
    right.bar(saved.layers, difference, color=[RIGHT if value > 0 else WRONG for value in difference])
    right.axhline(0, color=NEUTRAL, linewidth=0.8)
    right.set_xlabel("layer")
    right.set_ylabel("correct minus incorrect")
    return figure


def summary(saved: Saved) -> Figure:
    """Four panels: correct against incorrect, mean with its peak, heat map, distribution (DHAM Fig. 9)."""
    values = normalised(saved.arrays["curve"])
    figure = Figure(figsize=(10, 7), layout="constrained")
    (compared, overall), (heat, distribution) = figure.subplots(2, 2)
    _compared(compared, saved)
    _band(overall, saved.layers, values, RIGHT, "all examples")
    peak = saved.layers[int(values.mean(0).argmax())]
    overall.axvline(peak, color=NEUTRAL, linestyle="--", label=f"peak at layer {peak}")
    overall.set_xlabel("layer")
    overall.legend(frameon=False)
    places = (saved.layers[0] - 0.5, saved.layers[-1] + 0.5, min(len(values), SHOWN) - 0.5, -0.5)
    image = heat.imshow(values[:SHOWN], aspect="auto", vmin=0, vmax=1, cmap="viridis", extent=places)
    heat.set_xlabel("layer")
    heat.set_ylabel("example")
    heat.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=heat)
    distribution.hist(values.ravel(), bins=40, color=RIGHT)
    distribution.set_xlabel("saliency, each example from 0 to 1")
    distribution.set_ylabel("layers of examples")
    return figure


def _compared(axes: Axes, saved: Saved) -> None:
    values = normalised(saved.arrays["curve"])
    for mark, colour, name in ((1, RIGHT, "correct"), (0, WRONG, "incorrect")):
        chosen = values[saved.correct == mark]
        if len(chosen):
            _band(axes, saved.layers, chosen, colour, f"{name} (n = {len(chosen)})")
    if not saved.both:
        axes.set_title("no correct or no incorrect examples to compare", fontsize=9)
    axes.set_xlabel("layer")
    axes.set_ylabel("saliency, each example from 0 to 1")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _band(axes: Axes, layers: Sequence[int], values: Floats, colour: str, name: str) -> None:
    """Mean over examples with their quartiles; a layer of NaN is left out."""
    seen = ~np.isnan(values).all(0)
    places, values = np.array(layers)[seen], values[:, seen]
    low, high = np.nanquantile(values, [0.25, 0.75], axis=0)
    axes.plot(places, np.nanmean(values, axis=0), color=colour, label=name)
    axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)

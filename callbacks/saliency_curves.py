"""Figures of the layer curve (DHAM): mean saliency of each layer, of one run or of several."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from promptstage.callbacks.figures import NEUTRAL, RIGHT, WRONG, plain
from promptstage.callbacks.saliency_files import About, Floats, Saved
from promptstage.lightning_modules.diagnosis import SPANS

COLORS = (RIGHT, WRONG, "#009e73", "#cc79a7", "#e69f00", NEUTRAL)
ONE_KIND = "no correct or no incorrect examples to compare"
SHOWN = 20  # examples in a heat map
DECADES = 1e-3  # logarithmic color scales end so far below their greatest value


def normalised(curves: Floats) -> Floats:
    """Each example's curve (N, K) between its own least (0) and greatest (1) value; a flat one is 0."""
    low, high = curves.min(1, keepdims=True), curves.max(1, keepdims=True)
    return (curves - low) / np.where(high > low, high - low, 1)


def band(axes: Axes, layers: Sequence[int], values: Floats, color: str, name: str, style: str = "-") -> None:
    """Median over examples (N, K) with their quartiles; a layer of NaN is left out."""
    seen = ~np.isnan(values).all(0)
    if not seen.any():
        return
    places, values = np.array(layers)[seen], values[:, seen]
    low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    axes.plot(places, middle, style, color=color, label=name)
    axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)


def boundaries(axes: Axes, about: About) -> None:
    """Where another stage's prompt comes in, on an axis of layers."""
    for layer in about.boundaries:
        axes.axvline(layer - 0.5, color=NEUTRAL, linestyle=":", linewidth=0.8)


def finish_layers(axes: Axes, about: About) -> None:
    """Label an axis of layers, with stage boundaries and a legend of what has a name."""
    boundaries(axes, about)
    axes.set_xlabel("layer")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def layer_columns(axes: Axes, about: About, layers: Sequence[int]) -> None:
    """Labels and stage boundaries of a heat map with a column for each of ``layers``."""
    step = max(len(layers) // 10, 1)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    for layer in about.boundaries:
        axes.axvline(float(np.searchsorted(layers, layer)) - 0.5, color="black", linestyle=":", linewidth=0.8)


def numbered(axes: Axes) -> None:
    """Examples down the side."""
    axes.set_ylabel("example")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def curves(named: Mapping[str, Saved]) -> Figure:
    """Layer curves of several runs, such as insertion at several layers, a panel each (DHAM Fig. 1, 6, 7)."""
    figure = Figure(figsize=(3.2 * len(named) + 0.6, 3.2), layout="constrained")
    panels = figure.subplots(1, len(named), sharey=True, squeeze=False)[0]
    for i, (axes, (name, saved)) in enumerate(zip(panels, named.items(), strict=True)):
        values = normalised(saved.arrays["curve"])
        band(axes, saved.about.layers, values, COLORS[i % len(COLORS)], plain(name))
        boundaries(axes, saved.about)
        axes.set_title(f"{plain(name)} (n = {len(values)})", fontsize=10)
        axes.set_xlabel("layer")
    panels[0].set_ylabel("saliency, each example from 0 to 1")
    return figure


def differences(saved: Saved) -> Figure:
    """What the curve changes by from each layer to the next, example by example (DHAM Fig. 2)."""
    return differences_of({f"{saved.about.split}, {saved.about.label}": saved})


def differences_of(named: Mapping[str, Saved]) -> Figure:
    """The same of several runs, on one color scale."""
    steps = [np.diff(normalised(saved.arrays["curve"])[:SHOWN], axis=1) for saved in named.values()]
    most = max(1e-12, *(float(np.abs(values).max(initial=0)) for values in steps))
    figure = Figure(figsize=(4.2 * len(named) + 1.6, 3.8), layout="constrained")
    panels = figure.subplots(1, len(named), squeeze=False)[0]
    for axes, values, (name, saved) in zip(panels, steps, named.items(), strict=True):
        image = axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        layer_columns(axes, saved.about, saved.about.layers[1:])
        axes.set_title(plain(name), fontsize=10)
        axes.set_xlabel("to layer")
        numbered(axes)
    figure.colorbar(image, ax=panels.tolist(), label="change of saliency from the layer before")
    return figure


def gap(saved: Saved) -> Figure:
    """Curves of correct and incorrect examples, and their difference by layer (DHAM Fig. 8)."""
    return gaps_of({f"{saved.about.split}, {saved.about.label}": saved})


def gaps_of(named: Mapping[str, Saved]) -> Figure:
    """The same of several runs, a column each, on one scale; a run without both kinds shows what it has."""
    figure = Figure(figsize=(4.2 * len(named) + 1, 6), layout="constrained")
    panels = figure.subplots(2, len(named), sharex="col", sharey="row", squeeze=False)
    for (upper, lower), (name, saved) in zip(panels.T, named.items(), strict=True):
        compared(upper, saved)
        upper.set_title(plain(name) if saved.both else f"{plain(name)}\n{ONE_KIND}", fontsize=10)
        if saved.both:
            values = normalised(saved.arrays["curve"])
            difference = values[saved.correct == 1].mean(0) - values[saved.correct == 0].mean(0)
            colors = [RIGHT if value > 0 else WRONG for value in difference]
            lower.bar(saved.about.layers, difference, color=colors)
        boundaries(lower, saved.about)
        lower.axhline(0, color=NEUTRAL, linewidth=0.8)
        lower.set_xlabel("layer")
    panels[0, 0].set_ylabel("saliency, each example from 0 to 1")
    panels[1, 0].set_ylabel("mean of correct minus incorrect")
    return figure


def summary(saved: Saved) -> Figure:
    """Four panels: correct against incorrect, all with their peak, heat map, distribution (DHAM Fig. 9)."""
    values, layers = normalised(saved.arrays["curve"]), saved.about.layers
    figure = Figure(figsize=(10, 7), layout="constrained")
    (upper_left, overall), (heat, distribution) = figure.subplots(2, 2)
    compared(upper_left, saved)
    upper_left.set_title("" if saved.both else ONE_KIND, fontsize=9)
    upper_left.set_xlabel("layer")
    upper_left.set_ylabel("saliency, each example from 0 to 1")
    band(overall, layers, values, RIGHT, f"all examples (n = {len(values)})")
    peak = layers[int(np.median(values, axis=0).argmax())]
    overall.axvline(peak, color=NEUTRAL, linestyle="--", label=f"peak at layer {peak}")
    overall.set_xlabel("layer")
    overall.legend(frameon=False)
    image = heat.imshow(values[:SHOWN], aspect="auto", vmin=0, vmax=1, cmap="viridis")
    layer_columns(heat, saved.about, layers)
    heat.set_xlabel("layer")
    numbered(heat)
    figure.colorbar(image, ax=heat)
    distribution.hist(values.ravel(), bins=40, color=RIGHT)
    distribution.set_xlabel("saliency, each example from 0 to 1")
    distribution.set_ylabel("layers of examples")
    return figure


def compared(axes: Axes, saved: Saved) -> None:
    """Curves of correct and incorrect examples, as far as there are such."""
    values = normalised(saved.arrays["curve"])
    for mark, color, name in ((1, RIGHT, "correct"), (0, WRONG, "incorrect")):
        chosen = values[saved.correct == mark]
        if len(chosen):
            band(axes, saved.about.layers, chosen, color, f"{name} (n = {len(chosen)})")
    boundaries(axes, saved.about)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def while_learning(steps: Sequence[int], measured: Sequence[Saved]) -> Figure:
    """How the prompt's flow changes while it learns: layers across, steps down, one scale for both spans."""
    # An example sees the prompt in all the layers that any sees it in: plain medians, NaN where none does.
    values = {
        span: np.array([np.median(saved.prompt_to(span), axis=0) for saved in measured]) for span in SPANS
    }
    greatest = max(float(np.nanmax(grid)) for grid in values.values())
    figure = Figure(figsize=(10, 0.3 * len(steps) + 2.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    about = measured[0].about
    for axes, (span, grid) in zip(panels, values.items(), strict=True):
        norm = LogNorm(greatest * DECADES, greatest, clip=True)
        some = np.where(grid > 0, grid, np.nan)  # no flow at all is blank
        image = axes.imshow(some, norm=norm, aspect="auto", cmap="viridis")
        layer_columns(axes, about, about.layers)
        axes.set_title(f"prompt to {span}", fontsize=10)
        axes.set_xlabel("layer")
    rows = range(0, len(steps), max(len(steps) // 12, 1))
    panels[0].set_yticks(list(rows), [str(steps[row]) for row in rows])
    panels[0].set_ylabel("optimiser step")
    figure.colorbar(image, ax=panels.tolist(), label="mean saliency; median of examples")
    return figure

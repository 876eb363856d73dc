"""Figures of the layer curve: mean saliency of each layer, of one run or of several.

After Figures 1, 2 and 6 to 9 of DHAM ("Unlocking coherent reasoning in LLMs with hierarchical soft prompts",
anonymous, under review).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from promptstage.callbacks.figures import (
    AMOUNTS,
    DIFFERENCES,
    NEUTRAL,
    ON_LIGHT,
    RIGHT,
    SERIES_COLORS,
    WRONG,
    blank,
    entitle,
    plain,
)
from promptstage.callbacks.saliency.files import About, Floats, Saved
from promptstage.lightning_modules.diagnosis import SPANS

SHOWN = 20  # examples in a heat map
DECADES = 1e-3  # lower end of logarithmic color scales, relative to the maximum
SCALED = "saliency (scaled to 0–1)"
SCALING = "each example's curve is scaled from its minimum (0) to its maximum (1)"
BANDS = "lines: median over examples; bands: quartiles"


def subject(*measured: Saved) -> str:
    """Return the run, and the methods, backbones, data sets and labels of all measures, for a title."""
    runs = [measured[0].run] if len(measured) == 1 else []
    abouts = [saved.about for saved in measured]
    methods = [" on ".join(filter(None, (about.method, about.backbone))) for about in abouts]
    data = [" ".join(filter(None, (about.data, about.split))) for about in abouts]
    labels = ["gold rationale" if about.label == "rationale" else about.label for about in abouts]
    parts = [*runs, *(", ".join(dict.fromkeys(filter(None, names))) for names in (methods, data))]
    return plain("; ".join(filter(None, parts)) + f", loss of the {' or '.join(dict.fromkeys(labels))}")


def stage_lines(saved: Saved) -> str:
    """Return a clause for a caption on the lines between stages; empty without any."""
    return "; dotted: layer where a stage's prompt begins" if saved.about.boundaries else ""


def normalize(curves: Floats) -> Floats:
    """Scale each example's curve (N, K) from its minimum (0) to its maximum (1); a constant curve is 0."""
    low, high = curves.min(1, keepdims=True), curves.max(1, keepdims=True)
    return (curves - low) / np.where(high > low, high - low, 1)


def band(axes: Axes, layers: Sequence[int], values: Floats, color: str, name: str, style: str = "-") -> None:
    """Draw the median over examples (N, K) with quartiles; layers of NaN are left out."""
    seen = ~np.isnan(values).all(0)
    if not seen.any():
        return
    places, values = np.array(layers)[seen], values[:, seen]
    low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    axes.plot(places, middle, style, color=color, label=name)
    axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)


def boundaries(axes: Axes, about: About) -> None:
    """Mark the layers where another stage's prompt begins, on an axis of layers."""
    for layer in about.boundaries:
        axes.axvline(layer - 0.5, color=NEUTRAL, linestyle=":", linewidth=0.8)


def finish_layers(axes: Axes, about: About) -> None:
    """Label an axis of layers, with stage boundaries and a legend of the named lines."""
    boundaries(axes, about)
    axes.set_xlim(about.layers[0] - 0.5, about.layers[-1] + 0.5)
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(framealpha=0.9, edgecolor="none", fontsize=8)  # over the stage boundaries


def layer_columns(axes: Axes, about: About, layers: Sequence[int]) -> None:
    """Label the columns of a heat map over ``layers``, with stage boundaries."""
    step = max(len(layers) // 10, 1)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    for layer in about.boundaries:
        axes.axvline(
            float(np.searchsorted(layers, layer)) - 0.5, color=ON_LIGHT, linestyle=":", linewidth=0.8
        )


def numbered(axes: Axes) -> None:
    """Number the rows of a heat map, one example each."""
    axes.set_ylabel("example")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def missing_grades(saved: Saved) -> str:
    """Return the kinds of examples that a comparison lacks, such as ``no incorrect examples``; else empty."""
    kinds = [name for name, mark in (("correct", 1), ("incorrect", 0)) if not (saved.correct == mark).any()]
    return "no graded examples" if len(kinds) == 2 else f"no {kinds[0]} examples" if kinds else ""


def curves(named: Mapping[str, Saved]) -> Figure:
    """Draw layer curves of several runs, one panel each (DHAM Fig. 1, 6, 7)."""
    figure = Figure(figsize=(3.2 * len(named) + 0.6, 3.8), layout="constrained")
    panels = figure.subplots(1, len(named), sharey=True, squeeze=False)[0]
    for i, (axes, (name, saved)) in enumerate(zip(panels, named.items(), strict=True)):
        values = normalize(saved.arrays["curve"])
        band(axes, saved.about.layers, values, SERIES_COLORS[i % len(SERIES_COLORS)], plain(name))
        boundaries(axes, saved.about)
        axes.set_title(f"{plain(name)} (n = {len(values)})", fontsize=10)
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(SCALED)
    lines = next(filter(None, map(stage_lines, named.values())), "")
    entitle(figure, "Mean saliency of each layer", subject(*named.values()), f"{BANDS}; {SCALING}{lines}")
    return figure


def differences(saved: Saved) -> Figure:
    """Draw the change of the layer curve from each layer to the next, by example (DHAM Fig. 2)."""
    return _differences({"": saved}, subject(saved))


def differences_of(named: Mapping[str, Saved]) -> Figure:
    """Draw :func:`differences` of several runs on one color scale."""
    return _differences(named, subject(*named.values()))


def _differences(named: Mapping[str, Saved], about: str) -> Figure:
    steps = [np.diff(normalize(saved.arrays["curve"])[:SHOWN], axis=1) for saved in named.values()]
    most = max(1e-12, *(float(np.abs(values).max(initial=0)) for values in steps))
    figure = Figure(figsize=(4.2 * len(named) + 2.2, 4.4), layout="constrained")
    panels = figure.subplots(1, len(named), squeeze=False)[0]
    for axes, values, (name, saved) in zip(panels, steps, named.items(), strict=True):
        image = axes.imshow(values, cmap=DIFFERENCES, vmin=-most, vmax=most, aspect="auto")
        layer_columns(axes, saved.about, saved.about.layers[1:])
        axes.set_title(plain(name), fontsize=10)
        axes.set_xlabel("layer")
        numbered(axes)
    figure.colorbar(image, ax=panels.tolist(), label="difference from the layer before")
    lines = next(filter(None, map(stage_lines, named.values())), "")
    caption = f"first {max(map(len, steps))} examples; {SCALING}{lines}"
    entitle(figure, "Change of mean saliency from layer to layer", about, caption)
    return figure


def gap(saved: Saved) -> Figure:
    """Draw curves of correct and incorrect examples, and their difference by layer (DHAM Fig. 8)."""
    return _gaps({"": saved}, subject(saved))


def gaps_of(named: Mapping[str, Saved]) -> Figure:
    """Draw :func:`gap` of several runs, a column each, on one scale."""
    return _gaps(named, subject(*named.values()))


def _gaps(named: Mapping[str, Saved], about: str) -> Figure:
    figure = Figure(figsize=(4.2 * len(named) + 2.2, 6.6), layout="constrained")
    panels = figure.subplots(2, len(named), sharey="row", squeeze=False)
    for (upper, lower), (name, saved) in zip(panels.T, named.items(), strict=True):
        compared(upper, saved)
        upper.set_title(plain(name), fontsize=10)
        if missing := missing_grades(saved):
            blank(lower, missing)
            continue
        values = normalize(saved.arrays["curve"])
        difference = values[saved.correct == 1].mean(0) - values[saved.correct == 0].mean(0)
        colors = [RIGHT if value > 0 else WRONG for value in difference]
        lower.bar(saved.about.layers, difference, color=colors)
        lower.axhline(0, color=NEUTRAL, linewidth=0.8)
        finish_layers(lower, saved.about)
    for axes, label in zip(panels[:, 0], (SCALED, "mean of correct − mean of incorrect"), strict=True):
        axes.set_ylabel(label)
    lines = next(filter(None, map(stage_lines, named.values())), "")
    title = "Mean saliency of each layer: correct and incorrect answers"
    entitle(figure, title, about, f"{BANDS}; bars: difference of means; {SCALING}{lines}")
    return figure


def compared(axes: Axes, saved: Saved) -> None:
    """Draw the curves of correct and incorrect examples, as far as there are any."""
    values = normalize(saved.arrays["curve"])
    for mark, color, name in ((1, RIGHT, "correct"), (0, WRONG, "incorrect")):
        chosen = values[saved.correct == mark]
        if len(chosen):
            band(axes, saved.about.layers, chosen, color, f"{name} (n = {len(chosen)})")
    if axes.lines:
        finish_layers(axes, saved.about)
    else:
        blank(axes, missing_grades(saved))


def summary(saved: Saved) -> Figure:
    """Draw the layer curve in up to four panels (DHAM Fig. 9).

    Median and peak of all examples; with grades, correct against incorrect; with several examples, a heat map
    and the distribution of the values of all layers.
    """
    values, layers = normalize(saved.arrays["curve"]), saved.about.layers
    graded, several = not np.isnan(saved.correct).all(), len(values) > 1
    count = 1 + graded + 2 * several
    rows, columns = -(-count // 2), min(count, 2)
    figure = Figure(figsize=(5.2 * columns, 3.4 * rows + 0.8), layout="constrained")
    panels = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    overall = panels[int(graded)]
    if graded:
        missing = missing_grades(saved)
        compared(panels[0], saved)
        panels[0].set_title(f"graded examples ({missing})" if missing else "graded examples", fontsize=10)
        panels[0].set_ylabel(SCALED)
    band(overall, layers, values, RIGHT, f"all examples (n = {len(values)})")
    peak = layers[int(np.median(values, axis=0).argmax())]
    overall.axvline(peak, color=NEUTRAL, linestyle="--", label=f"maximum at layer {peak}")
    overall.set_title("all examples", fontsize=10)
    overall.set_ylabel(SCALED)
    finish_layers(overall, saved.about)
    if several:
        heat, distribution = panels[-2:]
        image = heat.imshow(values[:SHOWN], aspect="auto", vmin=0, vmax=1, cmap=AMOUNTS)
        layer_columns(heat, saved.about, layers)
        heat.set_title(f"first {len(values[:SHOWN])} examples", fontsize=10)
        heat.set_xlabel("layer")
        numbered(heat)
        figure.colorbar(image, ax=heat, label=SCALED)
        distribution.hist(values.ravel(), bins=40, color=RIGHT)
        distribution.set_title("all examples and layers", fontsize=10)
        distribution.set_xlabel(SCALED)
        distribution.set_ylabel("number of (example, layer) pairs")
    caption = f"{BANDS}; {SCALING}{stage_lines(saved)}"
    entitle(figure, "Mean saliency of each layer", subject(saved), caption)
    return figure


def while_learning(steps: Sequence[int], measured: Sequence[Saved]) -> Figure:
    """Draw the prompt's flow over training: layers across, steps down, one scale for both spans."""
    # An example sees the prompt in all the layers that any sees it in: plain medians, NaN where none does.
    values = {
        span: np.array([np.median(saved.prompt_to(span), axis=0) for saved in measured]) for span in SPANS
    }
    greatest = max(float(np.nanmax(grid)) for grid in values.values())
    figure = Figure(figsize=(10, 0.3 * len(steps) + 3), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    about = measured[0].about
    for axes, (span, grid) in zip(panels, values.items(), strict=True):
        norm = LogNorm(greatest * DECADES, greatest, clip=True)
        some = np.where(grid > 0, grid, np.nan)  # no flow at all is blank
        image = axes.imshow(some, norm=norm, aspect="auto", cmap=AMOUNTS)
        layer_columns(axes, about, about.layers)
        axes.set_title(f"prompt to {span}", fontsize=10)
        axes.set_xlabel("layer")
    rows = range(0, len(steps), max(len(steps) // 12, 1))
    panels[0].set_yticks(list(rows), [str(steps[row]) for row in rows])
    panels[0].set_ylabel("optimizer step")
    figure.colorbar(image, ax=panels.tolist(), label="median saliency per visible pair")
    count = len(measured[0].ids)
    caption = f"median over {count} examples; blank: no flow{stage_lines(measured[0])}"
    entitle(figure, "Flow from the soft prompt during training", subject(measured[0]), caption)
    return figure

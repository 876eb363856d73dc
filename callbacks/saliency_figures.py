"""Figures of a prompt's saliency, drawn from what ``SaliencyDiagnostics`` saved: no model is needed.

``draw(folder)`` draws them all again. Layers are numbered from 0, as everywhere in the project.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from callbacks.figures import NEUTRAL, RIGHT, WRONG, plain, png
from callbacks.saliency_curves import (
    DECADES,
    band,
    boundaries,
    differences,
    gap,
    summary,
)
from callbacks.saliency_files import About, Matrix, Saved, load, load_matrix
from lightning_modules.diagnosis import SPANS
from lightning_modules.functional.information_flow import Conditional, change_given_accumulation
from utilities.files import write_bytes


def all_figures(saved: Saved, matrix: Matrix | None = None) -> dict[str, Figure]:
    """Every figure that these examples allow, by name; comparisons need correct and incorrect ones."""
    drawn: dict[str, Callable[[Saved], Figure]] = {}
    if saved.about.stages:
        drawn |= {"flows": flows, "sink": sink, "tokens": tokens}
        if len(saved.ids) > 1 and saved.shallow_seen:
            drawn["accumulation"] = accumulation
        if saved.both:
            drawn["late_flow"] = late_flow
    if len(saved.about.layers) > 1:
        drawn |= {"by_layer": by_layer, "differences": differences, "summary": summary}
        if saved.both:
            drawn["gap"] = gap
    found = {name: draw_one(saved) for name, draw_one in drawn.items()}
    return found | ({} if matrix is None else {"matrix": of_matrix(matrix, saved.about)})


def told(saved: Saved) -> str:
    """The measures of all examples in a line, with the tests' p-values."""
    parts = [f"saliency of {len(saved.ids)} examples ({saved.about.label})"]
    if saved.about.stages:
        found, p = changes(saved)
        if saved.shallow_seen:
            parts.append(f"accumulation in {found.accumulated}")
        if saved.shallow_seen and 0 < found.accumulated < found.examples:
            parts[-1] += (
                f", late flow changed in {found.with_accumulation:.0%} of these and {found.without:.0%} of "
                f"the others (Fisher p = {p:.2g})"
            )
        if saved.both:
            late = compare_late_flow(saved)
            parts.append(
                f"late flow of {late.incorrect} incorrect against {late.correct} correct: "
                f"P(greater) = {late.greater:.3f} (Mann-Whitney p = {late.p:.2g})"
            )
        else:
            parts.append("without correct and incorrect examples these are not compared")
    return "; ".join(parts)


def draw(folder: Path | str, stem: str = "saliency") -> list[Path]:
    """Draw all figures of a folder again, as PNG beside what was saved."""
    folder, paths = Path(folder), []
    for name, figure in all_figures(load(folder, stem), load_matrix(folder, stem)).items():
        paths.append(folder / f"{stem}_{name}.png")
        write_bytes(paths[-1], png(figure))
    return paths


def by_layer(saved: Saved) -> Figure:
    """Plot means over examples against the layer, as TensorBoard's chart of the same name does."""
    measures = saved.by_layer()
    figure = Figure(figsize=(4.2 * len(measures), 3.4), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, (name, values) in zip(panels, measures.items(), strict=True):
        axes.plot(list(values), list(values.values()), marker="o", markersize=3, color=RIGHT)
        axes.set_title(name.replace("_", " "), fontsize=10)
        _finish_layers(axes, saved.about)
    panels[0].set_ylabel(f"mean saliency of {len(saved.ids)} examples")
    return figure


def flows(saved: Saved) -> Figure:
    """S_pq and S_pr by layer; dashed without the first virtual token (DPC Fig. 2a)."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, span in zip(figure.subplots(1, 2, sharey=True), SPANS, strict=True):
        _with_and_without_first(axes, saved, span, "saliency")
        axes.set_title(f"prompt to {span}", fontsize=10)
    figure.axes[0].set_ylabel("mean saliency; median of examples")
    return figure


def sink(saved: Saved) -> Figure:
    """Saliency beside raw attention: what the sequence's first position takes of each.

    Attention sinks form at the first position, which a soft prompt at the start of a sequence occupies.
    """
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, of in ((left, "saliency"), (middle, "attention")):
        _with_and_without_first(axes, saved, "rationale", of)
        axes.set_title(f"{of}: prompt to rationale", fontsize=10)
    left.set_ylabel("mean a virtual token; median of examples")
    names = ["BOS"] * saved.about.lead + ["first virtual token"]
    for of, colour in (("saliency", RIGHT), ("attention", WRONG)):
        sent = saved.arrays[of].sum(2)
        shares = sent / np.nansum(sent, axis=2, keepdims=True)
        for column, style in zip(range(len(names)), ("-", "--"), strict=False):
            label = f"{of}, {names[column]}"
            band(right, saved.about.layers, shares[:, :, column], colour, label, style)
    right.set_title("share of all that is seen before the content", fontsize=10)
    right.set_ylim(0, 1)
    _finish_layers(right, saved.about)
    return figure


def tokens(saved: Saved) -> Figure:
    """Which virtual token sends how much, layer by layer, stages told apart; attention on the same scale.

    Shares of what a layer's virtual tokens send to question and rationale together, mean of the examples.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    about = saved.about
    for axes, of in zip(figure.subplots(1, 2, sharey=True), ("saliency", "attention"), strict=True):
        sent = saved.from_token(of)
        shares = sent / np.nansum(sent, axis=2, keepdims=True)
        # What no example's layer sees stays NaN, and blank.
        mean = np.nansum(shares, axis=0) / np.maximum((~np.isnan(shares)).sum(0), 1)
        mean[np.isnan(shares).all(0)] = np.nan
        image = axes.imshow(
            mean, aspect="auto", cmap="viridis", norm=LogNorm(DECADES, 1, clip=True), interpolation="nearest"
        )
        for end in np.cumsum(about.stages)[:-1]:
            axes.axvline(end - 0.5, color="white")
        for layer in about.boundaries:
            axes.axhline(float(np.searchsorted(about.layers, layer)) - 0.5, color="white", linestyle=":")
        axes.set_xlabel("virtual token" + (", stages divided by lines" if len(about.stages) > 1 else ""))
        axes.set_title(of, fontsize=10)
    rows = range(0, len(about.layers), max(len(about.layers) // 10, 1))
    figure.axes[0].set_yticks(list(rows), [str(about.layers[row]) for row in rows])
    figure.axes[0].set_ylabel("layer")
    figure.colorbar(image, ax=figure.axes, label="share of its layer")
    return figure


def changes(saved: Saved, quantile: float = 0.75) -> tuple[Conditional, float]:
    """How often the late flow changes with accumulation and without, and Fisher's exact p (DPC Fig. 4a).

    The paper gives no threshold for a change: here it is a quantile of these examples' S_IFP.
    """
    from scipy.stats import fisher_exact

    late = saved.arrays["late"]
    changed = late > np.nanquantile(late, quantile)
    accumulated = np.array([one is not None for one in saved.accumulations()])
    groups = (accumulated, ~accumulated)
    table = [[int((changed & group).sum()), int((~changed & group).sum())] for group in groups]
    return change_given_accumulation(changed, accumulated), float(fisher_exact(table).pvalue)


def accumulation(saved: Saved, quantile: float = 0.75) -> Figure:
    """P(the late flow changes) with accumulation and without (DPC Fig. 4a)."""
    found, p = changes(saved, quantile)
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.add_subplot()
    counts = (found.accumulated, found.examples - found.accumulated)
    names = [f"accumulation\n(n = {counts[0]})", f"none\n(n = {counts[1]})"]
    axes.bar(names, np.nan_to_num([found.with_accumulation, found.without]), color=[WRONG, RIGHT])
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"share with S_IFP above its {quantile:.0%} quantile")
    axes.set_title(f"Fisher's exact p = {p:.2g}", fontsize=10)
    return figure


class Compared(NamedTuple):
    """Incorrect against correct examples' S_IFP: P(incorrect > correct), two-sided Mann-Whitney p."""

    greater: float
    p: float
    correct: int
    incorrect: int


def compare_late_flow(saved: Saved) -> Compared:
    """The test of DPC Fig. 4b, c; there must be correct and incorrect examples."""
    from scipy.stats import mannwhitneyu

    right, wrong = (saved.arrays["late"][saved.correct == mark] for mark in (1, 0))
    test = mannwhitneyu(wrong, right)
    share = float(test.statistic) / (len(right) * len(wrong))
    return Compared(share, float(test.pvalue), len(right), len(wrong))


def late_flow(saved: Saved) -> Figure:
    """S_IFP of correct and incorrect examples, with a two-sided Mann-Whitney test (DPC Fig. 4b, c)."""
    late, found = saved.arrays["late"], compare_late_flow(saved)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, box = figure.subplots(1, 2, width_ratios=[2, 1])
    bins = np.histogram_bin_edges(late[late <= np.nanquantile(late, 0.99)], bins=30)
    groups = [late[saved.correct == 1], late[saved.correct == 0]]
    for values, colour, name in zip(groups, (RIGHT, WRONG), ("correct", "incorrect"), strict=True):
        weights = np.full(len(values), 1 / len(values))
        label = f"{name} (n = {len(values)})"
        left.hist(values, bins.tolist(), weights=weights, color=colour, alpha=0.6, label=label)
    last = saved.about.layers[-1]
    left.set_xlabel(f"S_IFP: prompt to the rationale's second half, layer {last} (up to its 99 % quantile)")
    left.set_ylabel("share of examples")
    left.legend(frameon=False)
    box.boxplot(groups, tick_labels=["correct", "incorrect"], showfliers=False)
    figure.suptitle(
        f"P(incorrect > correct) = {found.greater:.3f}, Mann-Whitney p = {found.p:.2g}", fontsize=10
    )
    return figure


def of_matrix(matrix: Matrix, about: About) -> Figure:
    """Saliency among all tokens of one example; prompt, question and rationale marked (DPC Fig. 2b)."""
    length, virtual = len(matrix.tokens), about.lead + sum(about.stages)
    labels = ["BOS"] * about.lead + [f"p{i}" for i in range(sum(about.stages))] + matrix.tokens
    side = min(max(0.09 * length, 4), 18)
    width = min(max(0.09 * (length + virtual), 5), 24)
    figure = Figure(figsize=(width * len(matrix.panels) + 1.5, side + 1.5), layout="constrained")
    large = max(8, round(1.3 * side))  # words in a large figure are read from further away
    greatest = max(float(values.max()) for values in matrix.panels.values())
    # One scale for all panels: what is compared has the same colours.
    norm = LogNorm(greatest * DECADES, greatest, clip=True)
    shown = figure.subplots(1, len(matrix.panels), squeeze=False)[0]
    for axes, (name, values) in zip(shown, matrix.panels.items(), strict=True):
        some = np.where(values > 0, values, np.nan)  # no flow at all is blank
        image = axes.imshow(some, norm=norm, cmap="magma", aspect="auto", interpolation="nearest")
        edges = {"prompt": (0, virtual)} if virtual else {}
        edges |= {span: (virtual + a, virtual + b) for span, (a, b) in zip(SPANS, matrix[3:], strict=True)}
        for span, (start, end) in edges.items():
            axes.axvline(start - 0.5, color="#009e73", linewidth=0.8)
            axes.axvline(end - 0.5, color="#009e73", linewidth=0.8)
            place = ((start + end - 1) / 2, 1.0)
            axes.text(
                *place, span, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=large
            )
            if span != "prompt":
                axes.axhline(start - virtual - 0.5, color="#009e73", linewidth=0.8)
                axes.axhline(end - virtual - 0.5, color="#009e73", linewidth=0.8)
        for end in np.cumsum(about.stages)[:-1]:
            axes.axvline(about.lead + end - 0.5, color="gray", linewidth=0.8, linestyle=":")
        _token_ticks(axes, labels, width, matrix.tokens, side)
        axes.set_title(plain(name), fontsize=large + 2, pad=2 * large)
    bar = figure.colorbar(image, ax=shown.tolist())
    bar.set_label("saliency: flow from column to row", fontsize=large)
    bar.ax.tick_params(labelsize=large)
    figure.suptitle(plain(matrix.id), fontsize=large + 2)
    return figure


def _token_ticks(axes: Axes, across: list[str], width: float, down: list[str], height: float) -> None:
    """Token texts on both axes, as many as there is room for."""
    for axis, texts, inches in ((axes.xaxis, across, width), (axes.yaxis, down, height)):
        step = max(-(-len(texts) // int(inches / 0.08)), 1)
        places = range(0, len(texts), step)
        axis.set_ticks(list(places), [_shown(texts[i]) for i in places])
    axes.tick_params(labelsize=5, length=1)
    axes.tick_params(axis="x", rotation=90)


def _shown(text: str) -> str:
    """Return the first 12 characters of a token's text, on one line."""
    return plain(text[:12])


def _with_and_without_first(axes: Axes, saved: Saved, span: str, of: str) -> None:
    layers = saved.about.layers
    band(axes, layers, saved.prompt_to(span, of), RIGHT, "whole prompt")
    if sum(saved.about.stages) > 1:
        band(axes, layers, saved.prompt_to(span, of, skip=1), NEUTRAL, "without its first token", "--")
    _finish_layers(axes, saved.about)


def _finish_layers(axes: Axes, about: About) -> None:
    boundaries(axes, about)
    axes.set_xlabel("layer")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)

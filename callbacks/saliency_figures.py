"""Figures of a prompt's saliency, drawn from what ``SaliencyDiagnostics`` saved: no model is needed.

``draw(folder)`` draws them all again. Layers are numbered from 0, as everywhere in the project.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from promptstage.callbacks.figures import NEUTRAL, RIGHT, WRONG, png
from promptstage.callbacks.saliency_charts import charts
from promptstage.callbacks.saliency_curves import (
    COLORS,
    DECADES,
    band,
    differences,
    finish_layers,
    gap,
    summary,
)
from promptstage.callbacks.saliency_files import SENDERS, Saved, load
from promptstage.callbacks.saliency_groups import (
    SYMBOLS,
    accumulation,
    by_grade,
    changes,
    compare_late_flow,
    late_flow,
    late_shares,
    span_of_layers,
)
from promptstage.callbacks.saliency_matrix import Kind, Matrix, load_matrix
from promptstage.callbacks.saliency_matrix_figure import of_matrix
from promptstage.lightning_modules.diagnosis import SPANS
from promptstage.utilities.files import write_bytes

NAMES_OF_SOURCES = {
    "prompt": "prompt",
    "question": "question",
    "first_half": "rationale's first half",
    "second_half": "second half itself",
    "other": "template and other tokens",
}


def all_figures(saved: Saved, matrices: Mapping[Kind, Matrix] | None = None) -> dict[str, Figure]:
    """Every figure that these examples allow, by name; comparisons need correct and incorrect ones.

    Args:
        matrices: one example's, by their kind.
    """
    drawn: dict[str, Callable[[Saved], Figure]] = {}
    if saved.about.stages or saved.has_sources:
        drawn["flows"] = flows
    if saved.about.stages:
        drawn |= {"sink": sink, "tokens": tokens}
        if len(saved.ids) > 1 and saved.shallow_seen:
            drawn["accumulation"] = accumulation
        if saved.both:
            drawn["late_flow"] = late_flow
    if saved.has_sources:
        drawn["sources"] = sources
        if saved.both:
            drawn["by_grade"] = by_grade
    if len(saved.about.layers) > 1:
        drawn |= {"by_layer": by_layer, "differences": differences, "summary": summary}
        if saved.both:
            drawn["gap"] = gap
    found = {name: draw_one(saved) for name, draw_one in drawn.items()}
    names: dict[Kind, str] = {"saliency": "matrix", "attention": "attention_matrix"}
    shown = (matrices or {}).items()
    return found | {names[kind]: of_matrix(matrix, saved.about, kind) for kind, matrix in shown}


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
    if saved.has_sources and saved.both:
        where = span_of_layers(saved)
        shares = [
            f"{name} {wrong:.1%} against {right:.1%} (p = {found.p:.2g})"
            for name, wrong, right, found in late_shares(saved)
        ]
        parts.append(
            f"the second half's flow in {where}, medians, incorrect against correct: {', '.join(shares)}"
        )
    return "; ".join(parts)


def draw(folder: Path | str, stem: str = "saliency") -> list[Path]:
    """Draw all figures of a folder again, as PNG beside what was saved."""
    folder, paths = Path(folder), []
    kinds: tuple[Kind, ...] = ("saliency", "attention")
    stored = {kind: load_matrix(folder, stem, kind) for kind in kinds}
    matrices = {kind: matrix for kind, matrix in stored.items() if matrix is not None}
    for name, figure in all_figures(load(folder, stem), matrices).items():
        paths.append(folder / f"{stem}_{name}.png")
        write_bytes(paths[-1], png(figure))
    return paths


def by_layer(saved: Saved) -> Figure:
    """Plot means over examples against the layer, as TensorBoard's charts of the same names do."""
    measures = saved.by_layer()
    panels = charts(measures)
    figure = Figure(figsize=(5 * len(panels), 3.8), layout="constrained")
    for axes, (title, names) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, color in zip(names, COLORS, strict=False):
            values = measures[name]
            label = name.replace("_", " ")
            axes.plot(list(values), list(values.values()), marker="o", markersize=3, color=color, label=label)
        axes.set_title(title, fontsize=10)
        finish_layers(axes, saved.about)
    figure.axes[0].set_ylabel(f"mean of {len(saved.ids)} examples")
    return figure


def flows(saved: Saved) -> Figure:
    """S_pq and S_pr (DPC Fig. 2a), S_qr and S_rr (DPC §2.2, DHAM §3) by layer; means over visible pairs.

    S_pq and S_pr also without the first virtual token; S_qr and S_rr beside what the prompt sends to the same
    rows. Each row of panels has one scale.
    """
    rows = [SPANS] if saved.about.stages else []
    heard = ("question", "first_half")
    rows += [heard] if saved.has_sources else []
    figure = Figure(figsize=(10, 3.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2, sharey="row", squeeze=False)
    for axes_row, names in zip(panels, rows, strict=True):
        for axes, name in zip(axes_row, names, strict=True):
            if names is SPANS:
                _with_and_without_first(axes, saved, name, "saliency")
                axes.set_title(SYMBOLS[f"prompt_to_{name}"], fontsize=10)
                continue
            label = f"from the {name.replace('_', ' ')}"
            band(axes, saved.about.layers, saved.to_second_half(name), RIGHT, label)
            if saved.about.stages:
                from_prompt = saved.to_second_half("prompt")
                band(axes, saved.about.layers, from_prompt, NEUTRAL, "from the prompt", "--")
            finish_layers(axes, saved.about)
            axes.set_title(SYMBOLS[f"{name}_to_second_half"], fontsize=10)
        axes_row[0].set_ylabel("mean saliency; median of examples")
    return figure


def sources(saved: Saved) -> Figure:
    """Draw the sources of the flow to the rationale's second half by layer, beside attention rollout.

    Shares of all that the second half receives: the papers' claim is about where from, and the magnitude of
    saliency differs between examples and layers. Rollout is Abnar & Zuidema (2020).
    """
    drawn = {"saliency of each layer": saved.share_from}
    if "rollout" in saved.arrays:
        drawn["attention rollout up to each layer"] = saved.rollout_from
    figure = Figure(figsize=(5.8 * len(drawn) + 0.6, 4), layout="constrained")
    for axes, (title, of) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True
    ):
        for color, source in zip(COLORS, (*SENDERS, "other"), strict=False):
            band(axes, saved.about.layers, of(source), color, NAMES_OF_SOURCES[source])
        axes.set_ylim(0, 1)
        axes.set_title(f"{title} (n = {len(saved.ids)})", fontsize=10)
        finish_layers(axes, saved.about)
    figure.axes[0].set_ylabel("share of what the second half receives")
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
    for of, color in (("saliency", RIGHT), ("attention", WRONG)):
        sent = saved.arrays[of].sum(2)
        shares = sent / np.nansum(sent, axis=2, keepdims=True)
        for column, style in zip(range(len(names)), ("-", "--"), strict=False):
            label = f"{of}, {names[column]}"
            band(right, saved.about.layers, shares[:, :, column], color, label, style)
    right.set_title("share of all that is seen before the content", fontsize=10)
    right.set_ylim(0, 1)
    finish_layers(right, saved.about)
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


def _with_and_without_first(axes: Axes, saved: Saved, span: str, of: str) -> None:
    layers = saved.about.layers
    band(axes, layers, saved.prompt_to(span, of), RIGHT, "whole prompt")
    if sum(saved.about.stages) > 1:
        band(axes, layers, saved.prompt_to(span, of, skip=1), NEUTRAL, "without its first token", "--")
    finish_layers(axes, saved.about)

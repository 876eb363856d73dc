"""Figures of saliency, drawn from the files of ``SaliencyDiagnostics`` without the model.

``draw(folder)`` draws them all again. Layers are numbered from 0.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from promptstage.callbacks.figures import (
    AMOUNTS,
    NEUTRAL,
    ON_DARK,
    RIGHT,
    SERIES_COLORS,
    WRONG,
    entitle,
    png,
    scientific,
)
from promptstage.callbacks.saliency.charts import charts
from promptstage.callbacks.saliency.curves import (
    BANDS,
    DECADES,
    band,
    differences,
    finish_layers,
    gap,
    stage_lines,
    subject,
    summary,
)
from promptstage.callbacks.saliency.files import SENDERS, Saved, load
from promptstage.callbacks.saliency.groups import (
    FLOW,
    SYMBOLS,
    accumulation,
    by_grade,
    changes,
    compare_late_flow,
    has_halves,
    late_flow,
    late_shares,
    span_of_layers,
)
from promptstage.callbacks.saliency.matrix import Kind, Matrix, load_matrix
from promptstage.callbacks.saliency.matrix_figure import of_matrix
from promptstage.lightning_modules.diagnosis import SPANS
from promptstage.utilities.files import write_bytes
from promptstage.utilities.plurals import counted

NAMES_OF_SOURCES = {
    "prompt": "prompt",
    "question": "question",
    "first_half": "rationale's first half",
    "second_half": "second half itself",
    "other": "template and other tokens",
}


def all_figures(saved: Saved, matrices: Mapping[Kind, Matrix] | None = None) -> dict[str, Figure]:
    """Draw every figure that the examples allow, by name.

    Comparisons need correct and incorrect examples, or examples with and without accumulation; flows to the
    second half need answers of more than one token.

    Args:
        matrices: matrices of one example, by kind.
    """
    drawn: dict[str, Callable[[Saved], Figure]] = {}
    halves = has_halves(saved)
    if saved.about.stages or (saved.has_sources and halves):
        drawn["flows"] = flows
    if saved.about.stages:
        drawn |= {"sink": sink, "tokens": tokens}
        if halves and saved.shallow_seen and 0 < changes(saved)[0].accumulated < len(saved.ids):
            drawn["accumulation"] = accumulation
        if halves and saved.both:
            drawn["late_flow"] = late_flow
    if saved.has_sources and halves:
        drawn["sources"] = sources
        if saved.both:
            drawn["by_grade"] = by_grade
    if len(saved.about.layers) > 1:
        drawn |= {"by_layer": by_layer, "differences": differences, "summary": summary}
        if saved.both:
            drawn["gap"] = gap
    figures = {name: draw_one(saved) for name, draw_one in drawn.items()}
    names: dict[Kind, str] = {"saliency": "matrix", "attention": "attention_matrix"}
    shown = (matrices or {}).items()
    return figures | {names[kind]: of_matrix(matrix, saved, kind) for kind, matrix in shown}


def summary_line(saved: Saved) -> str:
    """Return the measures of all examples in one line, with the tests' p-values."""
    parts = [f"saliency of {len(saved.ids)} examples (loss of the {saved.about.label})"]
    if not has_halves(saved):
        if saved.about.stages and saved.shallow_seen:
            parts.append(f"a virtual token accumulates flow in {changes(saved)[0].accumulated}")
        return "; ".join(
            [*parts, "answers of one token have no second half, to which late flow could be measured"]
        )
    if saved.about.stages:
        conditional, p = changes(saved)
        accumulated, others = conditional.accumulated, conditional.examples - conditional.accumulated
        if saved.shallow_seen:
            parts.append(f"a virtual token accumulates flow in {accumulated}")
        if saved.shallow_seen and accumulated and others:
            parts[-1] += (
                f"; late flow (S_IFP) is high in {conditional.with_accumulation:.0%} of these and in "
                f"{conditional.without:.0%} of the others (Fisher p = {p:.2g})"
            )
        if saved.both:
            late = compare_late_flow(saved)
            parts.append(
                f"late flow (S_IFP, from the prompt to the rationale's second half) of {late.incorrect} "
                f"incorrect against {late.correct} correct answers: P(greater) = {late.greater:.3f} "
                f"(Mann-Whitney p = {late.p:.2g})"
            )
        else:
            parts.append("no comparison of correct and incorrect answers: only one kind")
    if saved.has_sources and saved.both:
        shares = [
            f"{name} {wrong:.1%} against {right:.1%} (p = {compared.p:.2g})"
            for name, wrong, right, compared in late_shares(saved)
        ]
        parts.append(
            f"sources of the flow to the second half in {span_of_layers(saved)}, median shares of incorrect "
            f"against correct answers: {', '.join(shares)}"
        )
    return "; ".join(parts)


def draw(folder: Path | str, stem: str = "saliency") -> list[Path]:
    """Draw all figures of a folder again, as PNG files beside the arrays."""
    folder, paths = Path(folder), []
    kinds: tuple[Kind, ...] = ("saliency", "attention")
    stored = {kind: load_matrix(folder, stem, kind) for kind in kinds}
    matrices = {kind: matrix for kind, matrix in stored.items() if matrix is not None}
    for name, figure in all_figures(load(folder, stem), matrices).items():
        paths.append(folder / f"{stem}_{name}.png")
        write_bytes(paths[-1], png(figure))
    return paths


def by_layer(saved: Saved) -> Figure:
    """Draw means over examples against the layer, the values of TensorBoard's charts."""
    halves = has_halves(saved)
    measures = {
        name: values for name, values in saved.by_layer().items() if halves or "second_half" not in name
    }
    panels = charts(measures)
    figure = Figure(figsize=(4.4 * len(panels), 4.4), layout="constrained")
    for axes, (title, names) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, color in zip(names, SERIES_COLORS, strict=False):
            values = measures[name]
            label = name.replace("_", " ")
            axes.plot(list(values), list(values.values()), marker="o", markersize=3, color=color, label=label)
        axes.set_title(title, fontsize=10)
        scientific(axes)
        finish_layers(axes, saved.about)
    count = len(saved.ids)
    figure.axes[0].set_ylabel("mean over examples" if count > 1 else "value of the example")
    caption = f"n = {count}{'; second half: of the rationale' if halves else ''}{stage_lines(saved)}"
    entitle(figure, "Saliency by layer", subject(saved), caption)
    return figure


def flows(saved: Saved) -> Figure:
    """Draw S_pq and S_pr (DPC Fig. 2a), S_qr and S_rr (DPC §2.2, DHAM §3) by layer; means over visible pairs.

    S_pq and S_pr also without the first virtual token; S_qr and S_rr beside the prompt's flow to the same
    rows. The panels of a row share one scale.
    """
    rows = [SPANS] if saved.about.stages else []
    senders = ("question", "first_half")
    with_halves = saved.has_sources and has_halves(saved)
    rows += [senders] if with_halves else []
    figure = Figure(figsize=(10, 3.4 * len(rows) + 1), layout="constrained")
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
        axes_row[0].set_ylabel(FLOW)
        scientific(axes_row[0])
    halves = "; halves: of the rationale" if with_halves else ""
    caption = f"{BANDS} (n = {len(saved.ids)}){stage_lines(saved)}{halves}"
    entitle(figure, "Information flow by layer", subject(saved), caption)
    return figure


def sources(saved: Saved) -> Figure:
    """Draw the sources of the flow to the rationale's second half by layer, beside attention rollout.

    Shares, because the claim of both papers is about the source and the magnitude of saliency differs between
    examples and layers. Rollout: Abnar & Zuidema 2020, arXiv:2005.00928.
    """
    drawn = {"saliency of each layer": saved.share_from}
    if "rollout" in saved.arrays:
        drawn["attention rollout up to each layer"] = saved.rollout_from
    figure = Figure(figsize=(5.2 * len(drawn) + 1.4, 4.8), layout="constrained")
    for axes, (title, of) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True
    ):
        for color, source in zip(SERIES_COLORS, (*SENDERS, "other"), strict=False):
            band(axes, saved.about.layers, of(source), color, NAMES_OF_SOURCES[source])
        axes.set_ylim(0, 1)
        axes.set_title(title, fontsize=10)
        finish_layers(axes, saved.about)
    figure.axes[0].set_ylabel("share of the flow to the second half")
    caption = f"{BANDS} (n = {len(saved.ids)}){stage_lines(saved)}"
    entitle(figure, "Sources of the flow to the second half of the rationale", subject(saved), caption)
    return figure


def sink(saved: Saved) -> Figure:
    """Draw saliency beside raw attention, and the first position's share of each.

    Attention sinks form at the first position, which a soft prompt at the start of a sequence occupies.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, of in ((left, "saliency"), (middle, "attention")):
        _with_and_without_first(axes, saved, "rationale", of)
        axes.set_title(f"{of}: prompt to rationale", fontsize=10)
        scientific(axes)
    left.set_ylabel("median per virtual and rationale token")
    names = ["BOS"] * saved.about.lead + ["first virtual token"]
    for of, color in (("saliency", RIGHT), ("attention", WRONG)):
        sent = saved.arrays[of].sum(2)
        totals = np.nansum(sent, axis=2, keepdims=True)  # 0 where no flow reaches the loss
        shares = np.divide(sent, totals, out=np.full_like(sent, np.nan), where=totals > 0)
        for column, style in zip(range(len(names)), ("-", "--"), strict=False):
            label = f"{of}, {names[column]}"
            band(right, saved.about.layers, shares[:, :, column], color, label, style)
    right.set_title("first position's share of the whole prefix", fontsize=10)
    right.set_ylim(0, 1)
    finish_layers(right, saved.about)
    caption = f"{BANDS} (n = {len(saved.ids)}){stage_lines(saved)}; prefix: all columns before the content"
    entitle(figure, "Attention sink at the first position", subject(saved), caption)
    return figure


def tokens(saved: Saved) -> Figure:
    """Draw each virtual token's share of the flow, by layer; saliency and attention on the same scale.

    Shares of the flow from a layer's virtual tokens to question and rationale together, mean over examples.
    """
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    about = saved.about
    for axes, of in zip(figure.subplots(1, 2, sharey=True), ("saliency", "attention"), strict=True):
        sent = saved.from_token(of)
        shares = sent / np.nansum(sent, axis=2, keepdims=True)
        # Layers that no example sees a token in stay NaN, which is drawn blank.
        mean = np.nansum(shares, axis=0) / np.maximum((~np.isnan(shares)).sum(0), 1)
        mean[np.isnan(shares).all(0)] = np.nan
        image = axes.imshow(
            mean, aspect="auto", cmap=AMOUNTS, norm=LogNorm(DECADES, 1, clip=True), interpolation="nearest"
        )
        for end in np.cumsum(about.stages)[:-1]:
            axes.axvline(end - 0.5, color=ON_DARK)
        for layer in about.boundaries:
            axes.axhline(float(np.searchsorted(about.layers, layer)) - 0.5, color=ON_DARK, linestyle=":")
        axes.set_xlabel("virtual token")
        axes.set_title(of, fontsize=10)
    rows = range(0, len(about.layers), max(len(about.layers) // 10, 1))
    figure.axes[0].set_yticks(list(rows), [str(about.layers[row]) for row in rows])
    figure.axes[0].set_ylabel("layer")
    figure.colorbar(image, ax=figure.axes, label="share of the layer's flow from the prompt")
    stages = "; blank: not visible; lines: stages" if len(about.stages) > 1 else ""
    caption = f"mean over {counted(len(saved.ids), 'example')}, flow to question and rationale{stages}"
    entitle(figure, "Flow from each virtual token", subject(saved), caption)
    return figure


def _with_and_without_first(axes: Axes, saved: Saved, span: str, of: str) -> None:
    layers = saved.about.layers
    band(axes, layers, saved.prompt_to(span, of), RIGHT, "whole prompt")
    if sum(saved.about.stages) > 1:
        band(axes, layers, saved.prompt_to(span, of, skip=1), NEUTRAL, "without its first token", "--")
    finish_layers(axes, saved.about)

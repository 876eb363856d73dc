"""Figures of label words, one for each analysis, drawn from a summary."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from promptstage.callbacks.figures import (
    AMOUNTS,
    BLUE,
    GRAY,
    GREEN,
    NEUTRAL,
    ORANGE,
    VERMILION,
    blank,
    entitle,
    plain,
)
from promptstage.lightning_modules.label_word_summary import extraction_of
from promptstage.utilities.plurals import counted

Summary = Mapping[str, Any]

FLOWS = {
    "to_labels": ("$S_{wp}$: to label words", BLUE),
    "to_target": ("$S_{pq}$: from label words to the prediction", VERMILION),
    "others": ("$S_{ww}$: all other pairs", GRAY),
}
METHODS = {
    "text_anchor": "Text_anchor",
    "hidden_random": "Hidden_random",
    "hidden_random_top": "Hidden_random-top",
    "hidden_anchor": "Hidden_anchor",
}
LOYALTIES = {"label_loyalty": "label loyalty", "word_loyalty": "word loyalty", "accuracy": "accuracy"}
COLORS = (BLUE, ORANGE, GREEN)
ATTENTION = "Attention from the last token to label words as a predictor of the label"


def all_figures(summary: Summary, subject: str) -> dict[str, Figure]:
    """Draw a figure of each analysis in a summary, by name.

    Args:
        subject: run, method and data set, for titles.
    """
    drawn: dict[str, Callable[[Summary, str], Figure]] = {
        "flows": flows,
        "extraction": extraction,
        "isolation": isolation,
        "compression": compression,
        "diagnosis": diagnosis,
    }
    subject = plain(f"{subject}; {counted(summary['examples'], 'example')}")
    return {name: draw(summary, subject) for name, draw in drawn.items() if name in summary}


def flows(summary: Summary, subject: str) -> Figure:
    """Draw S_wp, S_pq and S_ww by layer (Wang et al. Fig. 3)."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, (label, color) in FLOWS.items():
        axes.plot(summary["layers"], _numbers(summary["flows"][name]), "o-", ms=3, color=color, label=label)
    _layers(axes)
    axes.set_yscale("log", nonpositive="mask")  # in the last layer S_wp is 0
    axes.set_ylabel("saliency, mean over pairs and examples")
    axes.legend(frameon=False, fontsize=8)
    entitle(
        figure,
        "Information flow between label words and the prediction",
        subject,
        "loss: cross-entropy of the gold label, of the predicted one for a question without",
    )
    return figure


def extraction(summary: Summary, subject: str) -> Figure:
    """Draw AUCROC_l and R_l by layer (Wang et al. Fig. 5)."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    values = extraction_of(summary)
    assert values is not None
    if np.isnan(_numbers(values["aucroc"])).all():
        blank(axes, "a single class is predicted:\nnothing to rank")
        entitle(figure, ATTENTION, subject)
        return figure
    axes.bar(
        summary["layers"], _numbers(values["aucroc"]), color=BLUE, alpha=0.6, label="AUCROC of the layer"
    )
    axes.axhline(0.5, color=NEUTRAL, linestyle=":", linewidth=0.8)
    axes.set_ylim(0, 1)
    axes.set_ylabel("AUCROC")
    _layers(axes)
    other = axes.twinx()
    other.plot(summary["layers"], _numbers(values["accumulated"]), "o-", ms=3, color=VERMILION)
    other.set_ylabel("$R_l$, accumulated share (line)", color=VERMILION)
    entitle(
        figure,
        ATTENTION,
        subject,
        "dotted: no relation (0.5); "
        + (
            "one prompt: share of the other classes with less attention than the predicted one"
            if summary["examples"] == 1
            else "each class against each other one, those never predicted left out"
        ),
    )
    return figure


def isolation(summary: Summary, subject: str) -> Figure:
    """Draw label and word loyalty by number of layers with isolated tokens (Wang et al. Fig. 4)."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    measures = ("label_loyalty", "word_loyalty")
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), measures, strict=True):
        for place, style in (("first", "o-"), ("last", "s--")):
            for rows, color in (("label_words", VERMILION), ("random_words", GRAY)):
                own = [row for row in summary["isolation"] if (row["place"], row["rows"]) == (place, rows)]
                label = f"{rows.replace('_', ' ')}, {place} layers"
                axes.plot(
                    [row["layers"] for row in own],
                    [row[measure] for row in own],
                    style,
                    ms=4,
                    color=color,
                    label=label,
                )
        axes.set_xlabel("number of layers")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(LOYALTIES[measure], fontsize=10)
        axes.set_ylim(0, 1.03)
    axes.legend(frameon=False, fontsize=8)
    entitle(
        figure,
        "Loyalty when tokens attend to nothing before them",
        subject,
        "loyalty: agreement with the untouched model",
    )
    return figure


def compression(summary: Summary, subject: str) -> Figure:
    """Draw loyalty and accuracy of compressed contexts (Wang et al. Table 2)."""
    own = summary["compression"]
    names = [name for name in METHODS if name in own["methods"]]
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    for number, (measure, label) in enumerate(LOYALTIES.items()):
        values = [own["methods"][name][measure] for name in names]
        bars = axes.bar(places + 0.27 * (number - 1), values, 0.25, color=COLORS[number], label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    if "accuracy" in summary:
        axes.axhline(summary["accuracy"], color=GREEN, linestyle=":", label="accuracy with the whole context")
    axes.set_xticks(places, [METHODS[name] for name in names])
    axes.set_ylim(0, 1.15)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="upper center")
    entitle(
        figure,
        "Compressed contexts",
        subject,
        f"{own['kept_tokens']:.0f} of {own['context_tokens']:.0f} tokens of the context kept "
        f"({own['share_kept']:.0%}); a pass over an example is {own['speed_up']:.2f} times as fast",
    )
    return figure


def diagnosis(summary: Summary, subject: str) -> Figure:
    """Draw predicted and true confusion, and their rank correlation by layer (Wang et al. Fig. 6)."""
    own, layers = summary["diagnosis"], summary["layers"]
    correlations = _numbers(own["spearman"])
    known = np.where(np.isnan(correlations), -np.inf, correlations)
    ranked = bool(np.isfinite(known).any())
    best = int(known.argmax()) if ranked else len(layers) - 1
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    title = f"predicted, layer {layers[best]}"
    _matrix(figure, left, own["predicted"][best], title, summary["label_words"])
    _matrix(figure, middle, own["true"], "true", summary["label_words"])
    if ranked:
        right.plot(layers, correlations, "o-", ms=3, color=BLUE)
        right.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
        right.axhline(0, color=NEUTRAL, linestyle=":", linewidth=0.8)
        right.set_ylim(-1.05, 1.05)
        right.set_title("Spearman's ρ", fontsize=10)
        _layers(right)
    else:
        blank(right, "fewer than three pairs of classes:\nno rank correlation")
    entitle(
        figure,
        "Confusion of classes: distance of label words' keys against the AUC of probabilities",
        subject,
        "smaller: confused more; the predicted matrix is that of "
        + ("the layer with the greatest ρ" if ranked else "the last layer"),
    )
    return figure


def _matrix(figure: Figure, axes: Axes, matrix: Any, title: str, words: Sequence[str]) -> None:
    values = np.array([_numbers(row) for row in matrix])
    np.fill_diagonal(values, np.nan)
    image = axes.imshow(values, cmap=AMOUNTS, vmin=0, vmax=1)
    names = [plain(word[:12]) for word in words]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.6)


def _numbers(values: Sequence[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _layers(axes: Axes) -> None:
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))

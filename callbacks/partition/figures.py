"""Figures of a partition: similarity, dendrogram, silhouettes, votes."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from promptstage.callbacks.figures import (
    AMOUNTS,
    CHOSEN,
    NEUTRAL,
    ON_DARK,
    OTHERS,
    PALE,
    entitle,
    plain,
    stage_color,
)
from promptstage.lightning_modules.functional.partition import Partition
from promptstage.lightning_modules.functional.segmentation import dendrogram as linkage

MEASURES = {"cka": "linear CKA", "cosine": "cosine", "euclidean": "1 − distance ÷ largest distance"}


def _matrix(partition: Partition) -> np.ndarray:
    if partition.similarity is None:
        raise ValueError(f"a partition of method '{partition.method}' has no similarities to draw")
    return np.array(partition.similarity)


def _layer_ticks(layers: int) -> list[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 50) if layers / step <= 20)
    return list(range(0, layers, step))


def _boundaries(partition: Partition) -> list[int]:
    """Return the layers whose stage differs from that of the layer before."""
    owners = partition.stage_of_layer
    return [layer for layer in range(1, len(owners)) if owners[layer] != owners[layer - 1]]


def of_partition(partition: Partition) -> dict[str, Figure]:
    """Draw the figures of a partition that was searched for, by name."""
    drawn = {
        "similarity": similarity(partition),
        "dendrogram": dendrogram(partition),
        "silhouette": silhouette(partition),
    }
    return drawn | ({"votes": votes(partition)} if partition.boundary_votes else {})


def _subject(partition: Partition) -> str:
    """Return the model, the data and the measure of a partition for a title."""
    unbiased = "unbiased " if (partition.search or {}).get("unbiased") else ""
    examples = f" ({partition.examples} examples)" if partition.examples else ""
    return (
        f"{plain(partition.backbone)} on {plain(partition.data)}{examples}, "
        f"{unbiased}{MEASURES[partition.method]}"
    )


def similarity(partition: Partition) -> Figure:
    """Draw the similarity matrix on a scale of 0 to 1, with the stages along its side."""
    matrix = _matrix(partition)
    layers = len(matrix)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0, vmax=1, cmap=AMOUNTS)
    for boundary in _boundaries(partition):
        axes.axhline(boundary - 0.5, color=ON_DARK, linewidth=1.2)
        axes.axvline(boundary - 0.5, color=ON_DARK, linewidth=1.2)
    width = 0.035 * layers
    for layer, stage in enumerate(partition.stage_of_layer):
        place = (-0.5 - 1.4 * width, layer - 0.5)
        axes.add_patch(Rectangle(place, width, 1, facecolor=stage_color(stage), linewidth=0))
    axes.set_xlim(-0.5 - 1.5 * width, layers - 0.5)
    axes.set_xticks(_layer_ticks(layers))
    axes.set_yticks(_layer_ticks(layers))
    axes.set_xlabel("layer")
    axes.set_ylabel("layer")
    entitle(
        figure,
        f"Similarity of layers; stages {partition}",
        _subject(partition),
        "colored bar on the left: stages; white lines: stage boundaries",
    )
    figure.colorbar(image, ax=axes, shrink=0.9, label=MEASURES[partition.method])
    return figure


def dendrogram(partition: Partition) -> Figure:
    """Draw average linkage of the layers; with the cut into stages, unless these are contiguous segments."""
    from scipy.cluster.hierarchy import dendrogram as draw

    distance = np.maximum(1 - _matrix(partition), 0)
    tree, groups = linkage(distance), len(partition.stages)
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    draw(
        tree,
        ax=axes,
        color_threshold=0,
        above_threshold_color=NEUTRAL,
        leaf_rotation=90 if len(distance) > 20 else 0,
    )
    heights = tree[:, 2]
    if groups > 1 and not partition.contiguous:
        below = heights[len(heights) - groups] if groups <= len(heights) else 0.0
        cut = (below + heights[len(heights) - groups + 1]) / 2
        axes.axhline(cut, color=CHOSEN, linestyle="--", label=f"cut into {groups} stages")
        axes.set_ylim(0, 1.2 * heights[-1] or 1)  # room for the legend
        axes.legend(loc="upper right", frameon=False)
    for label in axes.get_xticklabels():
        label.set_color(stage_color(partition.stage_of_layer[int(label.get_text())]))
        label.set_fontweight("bold")
    axes.set_xlabel("layer, in the color of its stage")
    axes.set_ylabel("1 − similarity")
    entitle(
        figure,
        f"Hierarchical clustering of layers (average linkage); stages {partition}",
        _subject(partition),
        "The stages are contiguous segments of layers, chosen by dynamic programming; the dendrogram shows "
        "the same similarities without that constraint."
        if partition.contiguous
        else "",
    )
    return figure


def silhouette(partition: Partition) -> Figure:
    """Draw the mean silhouette against the number of stages, with the allowed numbers and the chosen one."""
    scores, groups = partition.silhouettes or {}, len(partition.stages)
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    allowed = sorted(partition.votes or [groups])
    span = str(groups) if len(allowed) == 1 else f"{allowed[0]} to {allowed[-1]}"
    axes.axvspan(allowed[0] - 0.5, allowed[-1] + 0.5, color=PALE, label=f"allowed: G = {span}")
    axes.plot(list(scores), list(scores.values()), marker="o", markersize=4, color=OTHERS)
    if groups in scores:
        axes.plot([groups], [scores[groups]], "o", markersize=9, color=CHOSEN, label=f"chosen: G = {groups}")
    best = max(scores, key=lambda number: scores[number], default=groups)
    if best not in allowed:
        label = f"maximum at G = {best}, not allowed"
        axes.plot([best], [scores[best]], "o", markersize=9, fillstyle="none", color=NEUTRAL, label=label)
    axes.set_xlabel("number of stages G")
    axes.set_ylabel("mean silhouette")
    axes.set_xticks(_layer_ticks(max(scores) + 1)[1:] if len(scores) > 20 else list(scores))
    axes.legend(frameon=False)
    entitle(
        figure,
        _choice(partition),
        _subject(partition),
        "mean silhouette of the best partition into G stages (higher is better); the search chooses among "
        "the allowed numbers (--model.num_stages)",
    )
    return figure


def _choice(partition: Partition) -> str:
    """Return the reason for the number of stages as a title."""
    groups = len(partition.stages)
    if partition.vote is None:
        return f"Number of stages: {partition.why}"
    resamples = f"{partition.vote:.0%} of {partition.resamples} bootstrap resamples"
    return f"Number of stages: {resamples} choose G = {groups}"


def votes(partition: Partition) -> Figure:
    """Draw bootstrap votes for the number of stages, and for a stage boundary before each layer."""
    if partition.votes is None or partition.boundary_votes is None:
        raise ValueError("a partition without resamples has no votes to draw")
    figure = Figure(figsize=(9, 4), layout="constrained")
    chosen = len(partition.stages)
    if len(partition.votes) > 1:
        # Bars of the same width in both panels: in proportion to the spans of their axes.
        ratios = [max(partition.votes) - min(partition.votes) + 2, partition.num_layers - 1]
        left, right = figure.subplots(1, 2, width_ratios=ratios, sharey=True)
        _bars(left, partition.votes, {chosen})
        left.set_xlim(min(partition.votes) - 1, max(partition.votes) + 1)
        left.set_xticks(list(partition.votes))
        left.set_xlabel("stages G")
    else:  # a given number of stages has no votes
        left = right = figure.subplots()
    left.set_ylabel(f"share of {partition.resamples} resamples")
    left.set_ylim(0, 1.05)
    right.set_xlim(0.5, partition.num_layers - 0.5)
    _bars(right, partition.boundary_votes, set(_boundaries(partition)))
    right.set_xticks(_layer_ticks(partition.num_layers)[1:])
    right.set_xlabel("layer before which a stage boundary lies")
    entitle(
        figure,
        f"Bootstrap votes for the number of stages and for the boundaries of {chosen} stages",
        _subject(partition),
        "orange: chosen on all examples",
    )
    return figure


def _bars(axes: Axes, heights: Mapping[int, float], chosen: set[int]) -> None:
    colors = [CHOSEN if place in chosen else OTHERS for place in heights]
    axes.bar(list(heights), list(heights.values()), color=colors)

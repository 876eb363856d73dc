"""Arrays → matplotlib figures, nothing else."""

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from promptstage.lightning_modules.functional.partition import Partition
from promptstage.lightning_modules.functional.segmentation import dendrogram as linkage
from promptstage.utilities.errors import printable

MEASURES = {"cka": "linear CKA", "cosine": "cosine", "euclidean": "1 − distance ÷ largest distance"}
# Of correct, of incorrect examples, and of what is neither.
RIGHT, WRONG, NEUTRAL = "#0072b2", "#d55e00", "#555555"
STAGE_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#000000")


def _color(stage: int) -> str:
    return STAGE_COLORS[stage % len(STAGE_COLORS)]


def _matrix(partition: Partition) -> np.ndarray:
    if partition.similarity is None:
        raise ValueError(f"a partition of method '{partition.method}' has no similarities to draw")
    return np.array(partition.similarity)


def _layer_ticks(layers: int) -> list[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 50) if layers / step <= 20)
    return list(range(0, layers, step))


def _boundaries(partition: Partition) -> list[int]:
    """Layers whose stage is not that of the layer before."""
    owners = partition.stage_of_layer
    return [layer for layer in range(1, len(owners)) if owners[layer] != owners[layer - 1]]


def plain(text: str) -> str:
    """Escape text from data or a path for a figure, so that matplotlib parses no mathematics in it."""
    return printable(text).replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """A figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def of_partition(partition: Partition) -> dict[str, Figure]:
    """The figures of a partition that was searched for, by name."""
    drawn = {
        "similarity": similarity(partition),
        "dendrogram": dendrogram(partition),
        "silhouette": silhouette(partition),
    }
    return drawn | ({"votes": votes(partition)} if partition.boundary_votes else {})


def similarity(partition: Partition) -> Figure:
    """The similarity matrix on a scale of 0 to 1, with the stages along its side and their boundaries."""
    matrix = _matrix(partition)
    layers = len(matrix)
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
    for boundary in _boundaries(partition):
        axes.axhline(boundary - 0.5, color="white", linewidth=1.2)
        axes.axvline(boundary - 0.5, color="white", linewidth=1.2)
    width = 0.035 * layers
    for layer, stage in enumerate(partition.stage_of_layer):
        place = (-0.5 - 1.4 * width, layer - 0.5)
        axes.add_patch(Rectangle(place, width, 1, facecolor=_color(stage), linewidth=0))
    axes.set_xlim(-0.5 - 1.5 * width, layers - 0.5)
    axes.set_xticks(_layer_ticks(layers))
    axes.set_yticks(_layer_ticks(layers))
    axes.set_xlabel("layer")
    axes.set_ylabel("layer (bar: its stage)")
    unbiased = ", unbiased" if (partition.search or {}).get("unbiased") else ""
    axes.set_title(
        f"layers of {plain(partition.backbone)} on {plain(partition.data)}: "
        f"{MEASURES[partition.method]}{unbiased}\n"
        f"stages {partition}",
        fontsize=10,
    )
    figure.colorbar(image, ax=axes, shrink=0.9)
    return figure


def dendrogram(partition: Partition) -> Figure:
    """Average linkage of the layers, with the cut into as many clusters as there are stages."""
    from scipy.cluster.hierarchy import dendrogram as draw

    distance = np.maximum(1 - _matrix(partition), 0)
    tree, groups = linkage(distance), len(partition.stages)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    draw(
        tree,
        ax=axes,
        color_threshold=0,
        above_threshold_color="#555555",
        leaf_rotation=90 if len(distance) > 20 else 0,
    )
    heights = tree[:, 2]
    if groups > 1:
        below = heights[len(heights) - groups] if groups <= len(heights) else 0.0
        cut = (below + heights[len(heights) - groups + 1]) / 2
        unused = " (not the stages)" if partition.contiguous else ""
        cutting = f"cut into {groups} clusters{unused}"
        axes.axhline(cut, color="#d55e00", linestyle="--", label=cutting)
        axes.set_ylim(0, 1.2 * heights[-1] or 1)  # room for the legend
        axes.legend(loc="upper right", frameon=False)
    for label in axes.get_xticklabels():
        label.set_color(_color(partition.stage_of_layer[int(label.get_text())]))
        label.set_fontweight("bold")
    axes.set_xlabel("layer, in the color of its stage")
    axes.set_ylabel("1 − similarity")
    found = "contiguous segments, found apart" if partition.contiguous else "this cut"
    axes.set_title(f"average linkage; the stages are {found}: {partition}", fontsize=10)
    return figure


def silhouette(partition: Partition) -> Figure:
    """Mean silhouette against the number of stages, with the numbers that were allowed and the one chosen."""
    scores, groups = partition.silhouettes or {}, len(partition.stages)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    allowed = sorted(partition.votes or [groups])
    axes.axvspan(allowed[0] - 0.5, allowed[-1] + 0.5, color="#eeeeee", label="allowed")
    axes.plot(list(scores), list(scores.values()), marker="o", markersize=4, color="#0072b2")
    if groups in scores:
        axes.plot([groups], [scores[groups]], "o", markersize=9, color="#d55e00", label=f"chosen: {groups}")
    axes.set_xlabel("number of stages G")
    axes.set_ylabel("mean silhouette")
    axes.set_xticks(_layer_ticks(max(scores) + 1)[1:] if len(scores) > 20 else list(scores))
    axes.legend(frameon=False)
    axes.set_title(partition.why, fontsize=10)
    return figure


def votes(partition: Partition) -> Figure:
    """Bootstrap votes for the number of stages, and for a boundary before each layer."""
    if partition.votes is None or partition.boundary_votes is None:
        raise ValueError("a partition without resamples has no votes to draw")
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    chosen = len(partition.stages)
    if len(partition.votes) > 1:
        left, right = figure.subplots(1, 2, width_ratios=[1, 3], sharey=True)
        _bars(left, partition.votes, {chosen})
        left.set_xticks(list(partition.votes))
        left.set_xlabel("number of stages G")
    else:  # a number that was asked for had no votes
        left = right = figure.subplots()
    left.set_ylabel(f"share of {partition.resamples} resamples")
    left.set_ylim(0, 1.05)
    right.set_xlim(0.5, partition.num_layers - 0.5)
    _bars(right, partition.boundary_votes, set(_boundaries(partition)))
    right.set_xticks(_layer_ticks(partition.num_layers)[1:])
    right.set_xlabel("layer that begins another stage than the layer before (orange: chosen)")
    right.set_title(f"boundaries in each resample's {chosen} stages", fontsize=10)
    return figure


def _bars(axes: Axes, heights: Mapping[int, float], chosen: set[int]) -> None:
    colors = ["#d55e00" if place in chosen else "#0072b2" for place in heights]
    axes.bar(list(heights), list(heights.values()), color=colors)

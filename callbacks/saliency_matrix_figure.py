"""Figure of one example's saliency or attention among all its tokens."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from promptstage.callbacks.figures import plain
from promptstage.callbacks.saliency_curves import DECADES
from promptstage.callbacks.saliency_files import About
from promptstage.callbacks.saliency_matrix import Kind, Matrix
from promptstage.lightning_modules.diagnosis import SPANS

MEANING: dict[Kind, str] = {
    "saliency": "saliency: flow from column to row",
    "attention": "attention of row on column, mean over heads",
}


def of_matrix(matrix: Matrix, about: About, kind: Kind = "saliency") -> Figure:
    """Saliency (DPC Fig. 2b) or attention (Fig. 7) among all tokens of one example, spans marked."""
    length, virtual = len(matrix.tokens), about.lead + sum(about.stages)
    labels = ["BOS"] * about.lead + [f"p{i}" for i in range(sum(about.stages))] + matrix.tokens
    side = min(max(0.09 * length, 4), 18)
    width = min(max(0.09 * (length + virtual), 5), 24)
    figure = Figure(figsize=(width * len(matrix.panels) + 1.5, side + 1.5), layout="constrained")
    large = max(8, round(1.3 * side))  # words in a large figure are read from further away
    greatest = max(float(values.max()) for values in matrix.panels.values())
    # One scale for all panels: what is compared has the same colors.
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
    bar.set_label(MEANING[kind], fontsize=large)
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

"""Figure of one example's saliency or attention among all its tokens."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from promptstage.callbacks.figures import AMONG_TOKENS, GREEN, ON_ANY, entitle, plain
from promptstage.callbacks.saliency.curves import DECADES, subject
from promptstage.callbacks.saliency.files import Saved
from promptstage.callbacks.saliency.matrix import Kind, Matrix
from promptstage.lightning_modules.diagnosis import SPANS

TITLES: dict[Kind, str] = {
    "saliency": "Saliency among the tokens of one example",
    "attention": "Attention among the tokens of one example",
}
SCALES: dict[Kind, str] = {
    "saliency": "saliency (flow from column to row)",
    "attention": "attention of row to column, mean over heads",
}
LABEL = 0.12  # inches that the label of a token takes


def of_matrix(matrix: Matrix, saved: Saved, kind: Kind = "saliency") -> Figure:
    """Draw saliency (DPC Fig. 2b) or attention (Fig. 7) among all tokens of one example, with its spans."""
    about = saved.about
    length, virtual = len(matrix.tokens), about.lead + sum(about.stages)
    labels = ["BOS"] * about.lead + [f"p{i}" for i in range(sum(about.stages))] + matrix.tokens
    side = min(max(LABEL * length, 4), 7)
    width = min(max(LABEL * (length + virtual), 5), 8)
    figure = Figure(figsize=(width * len(matrix.panels) + 1.8, side + 2.2), layout="constrained")
    greatest = max(float(values.max()) for values in matrix.panels.values())
    # One scale for all panels: what is compared has the same colors.
    norm = LogNorm(greatest * DECADES, greatest, clip=True)
    shown = figure.subplots(1, len(matrix.panels), squeeze=False)[0]
    for axes, (name, values) in zip(shown, matrix.panels.items(), strict=True):
        some = np.where(values > 0, values, np.nan)  # no flow at all is blank
        image = axes.imshow(some, norm=norm, cmap=AMONG_TOKENS, aspect="auto", interpolation="nearest")
        edges = {"prompt": (0, virtual)} if virtual else {}
        edges |= {span: (virtual + a, virtual + b) for span, (a, b) in zip(SPANS, matrix[3:], strict=True)}
        for span, (start, end) in edges.items():
            axes.axvline(start - 0.5, color=GREEN, linewidth=0.8)
            axes.axvline(end - 0.5, color=GREEN, linewidth=0.8)
            place = ((start + end - 1) / 2, 1.0)
            axes.text(
                *place, span, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=9
            )
            if span != "prompt":
                axes.axhline(start - virtual - 0.5, color=GREEN, linewidth=0.8)
                axes.axhline(end - virtual - 0.5, color=GREEN, linewidth=0.8)
        for end in np.cumsum(about.stages)[:-1]:
            axes.axvline(about.lead + end - 0.5, color=ON_ANY, linewidth=0.8, linestyle=":")
        _token_ticks(axes, labels, width, matrix.tokens, side)
        axes.set_title(plain(name), fontsize=10, pad=18)
    figure.colorbar(image, ax=shown.tolist(), label=SCALES[kind])
    stages = "; dotted: stages of the prompt" if len(about.stages) > 1 else ""
    entitle(
        figure,
        TITLES[kind],
        f"{plain(matrix.id)}; {subject(saved)}",
        f"blank: no flow, or not visible in these layers; green: spans{stages}; p0, p1 …: virtual tokens; "
        "long examples have a label at every few tokens",
    )
    return figure


def _token_ticks(axes: Axes, across: list[str], width: float, down: list[str], height: float) -> None:
    """Label both axes with the texts of tokens, as many as there is room for."""
    for axis, texts, inches in ((axes.xaxis, across, width), (axes.yaxis, down, height)):
        step = max(-(-len(texts) // int(inches / LABEL)), 1)
        places = range(0, len(texts), step)
        axis.set_ticks(list(places), [_shown(texts[i]) for i in places])
    axes.tick_params(labelsize=6, length=1)
    axes.tick_params(axis="x", rotation=90)


def _shown(text: str) -> str:
    """Return the first 12 characters of a token's text on one line; a token of spaces is visible."""
    return plain(text[:12]) if text.strip(" ") else "␣" * len(text[:12])

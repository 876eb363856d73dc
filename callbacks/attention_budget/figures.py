"""Figure of the attention budget: one head's attention with, without and rescaled, and the shares."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptstage.callbacks.attention_budget.files import Floats, Panel, Saved
from promptstage.callbacks.figures import AMONG_TOKENS, AMOUNTS, ON_DARK, entitle, plain
from promptstage.utilities.plurals import counted

MOST_LABELS = 40  # tokens whose texts are written at an axis


def budget_figure(saved: Saved, panel: Panel) -> Figure:
    """Draw A^pt, A and A^pt / (1 − a) of one head and example, and the mean share by layer and head.

    The second and third panel are the same if the identity holds: the prompt changes no relative attention.
    """
    length = len(panel.tokens)
    virtual = panel.with_prefix.shape[1] - length
    rescaled = panel.with_prefix[:, virtual:] / (1 - panel.share[:, None])
    titles = {
        "with the prompt, A^pt": panel.with_prefix,
        "without the prompt, A": panel.without,
        "with, rescaled: A^pt / (1 − a)": rescaled,
    }
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    all_axes = figure.subplots(1, 4)
    for axes, (title, values) in zip(all_axes, titles.items(), strict=False):
        _draw_attention(axes, title, values, panel.tokens)
    all_axes[0].axvline(virtual - 0.5, color=ON_DARK, linewidth=1)
    _draw_shares(figure, all_axes[3], saved)
    about = saved.about
    entitle(
        figure,
        f"Attention budget: layer {panel.layer}, head {panel.head}, which gives most to the prompt",
        f"{about.method} on {plain(about.backbone)}, {plain(about.data)} ({about.split}), "
        f"example {plain(panel.id)}",
        f"white line: end of the prompt's columns ({virtual}); "
        f"greatest difference of the second and third panel: {np.abs(rescaled - panel.without).max():.1e}; "
        f"shares: mean over {counted(len(saved.ids), 'example')}",
    )
    return figure


def _draw_attention(axes: Axes, title: str, values: Floats, tokens: list[str]) -> None:
    axes.imshow(values, cmap=AMONG_TOKENS, aspect="auto", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    first = values.shape[1] - len(tokens)
    if len(tokens) <= MOST_LABELS:
        labels = [plain(token) for token in tokens]
        axes.set_xticks(range(first, values.shape[1]), labels, rotation=90, fontsize=6)
        axes.set_yticks(range(len(tokens)), labels, fontsize=6)
    axes.set_xlabel("attended token")
    axes.set_ylabel("attending token")


def _draw_shares(figure: Figure, axes: Axes, saved: Saved) -> None:
    shares = saved.mean_share()[:, :, 0]
    image = axes.imshow(shares, cmap=AMOUNTS, aspect="auto", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes)
    step = max(1, len(saved.about.layers) // 12)
    layers = [str(layer) for layer in saved.about.layers]
    axes.set_yticks(range(0, len(layers), step), layers[::step])
    axes.set_xticks(range(0, shares.shape[1], max(1, shares.shape[1] // 8)))
    axes.set_title("share of the prompt, a", fontsize=10)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")

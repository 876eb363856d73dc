"""Titles, captions, colors and rendering of all figures (matplotlib)."""

import io
from textwrap import wrap
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptstage.utilities.errors import printable

# Distinct with color vision deficiency, too (Okabe and Ito, "Color universal design", 2008).
BLUE, VERMILION, ORANGE, GREEN = "#0072b2", "#d55e00", "#e69f00", "#009e73"
PURPLE, SKY, GRAY, BLACK = "#cc79a7", "#56b4e9", "#999999", "#000000"
NEUTRAL, PALE = "#555555", "#eeeeee"
RIGHT, WRONG = BLUE, VERMILION  # correct and incorrect examples
CHOSEN, OTHERS = VERMILION, BLUE  # result of a search, and its alternatives
STAGE_COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GRAY, BLACK)
SERIES_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, NEUTRAL)
# Color maps of amounts, of amounts among tokens, and of differences; lines over maps, by brightness of these.
AMOUNTS, AMONG_TOKENS, DIFFERENCES = "viridis", "magma", "RdBu_r"
ON_DARK, ON_LIGHT, ON_ANY = "white", "black", "gray"


def stage_color(stage: int) -> str:
    """Return the color of a stage or group by its index; colors are repeated after the last."""
    return STAGE_COLORS[stage % len(STAGE_COLORS)]


def plain(text: str) -> str:
    """Escape text from data or a path, so that matplotlib parses no mathematics in it."""
    return printable(text).replace("$", r"\$")


def entitle(figure: Figure, title: str, subject: str, caption: str = "") -> None:
    """Add a title and a caption, wrapped to the figure's width.

    Args:
        title: measure that is drawn.
        subject: run, method and data set, on a line of their own.
        caption: meaning of lines, bands and colors without a legend entry, below the axes.
    """
    width = figure.get_figwidth()
    figure.suptitle("\n".join(wrap(title, int(11 * width)) + wrap(subject, int(11 * width))), fontsize=10)
    if caption:
        figure.supxlabel("\n".join(wrap(caption, int(14 * width))), fontsize=8, color=NEUTRAL)


def scientific(axes: Axes, axis: Literal["x", "y", "both"] = "y") -> None:
    """Write tick labels below 0.01 with a common power of ten."""
    axes.ticklabel_format(axis=axis, style="sci", scilimits=(-2, 4), useMathText=True)


def blank(axes: Axes, reason: str) -> None:
    """Write the reason for which nothing can be drawn in place of empty axes."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=NEUTRAL)


def png(figure: Figure) -> bytes:
    """Render a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()

"""Figure of a search: losses over steps, and over learning rates."""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from promptstage.callbacks.figures import AMOUNTS, CHOSEN, NEUTRAL, entitle
from promptstage.tuning.search import best_trial
from promptstage.tuning.study import Trial


def curves(trials: Sequence[Trial], title: str) -> Figure:
    """Draw the validation loss of each trial over steps, and the losses at each rung over the learning rate.

    Args:
        trials: trials, at least one with a loss.
        title: method and data set.
    """
    shown = sorted((trial for trial in trials if trial.curve), key=lambda trial: trial.values.lr)
    best = best_trial(trials)
    low, high = shown[0].values.lr, shown[-1].values.lr
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    over_steps, over_rates = figure.subplots(1, 2, sharey=True)
    _draw_steps(over_steps, shown, best)
    _draw_rates(over_rates, shown, best)
    for axes in (over_steps, over_rates):
        axes.set_yscale("log")
        axes.grid(color=NEUTRAL, alpha=0.2)
    caption = (
        f"Left: a curve for each trial, from the smallest rate ({low:.2g}, dark) to the largest ({high:.2g}, "
        "bright); curves that end early were stopped. Right: lowest loss up to each rung."
    )
    entitle(figure, "Search for the learning rate by validation loss", title, caption)
    return figure


def _draw_steps(axes: Axes, trials: Sequence[Trial], best: Trial | None) -> None:
    low = trials[0].values.lr
    norm = LogNorm(low, max(trials[-1].values.lr, 2 * low))
    for trial in trials:
        color = colormaps[AMOUNTS](norm(trial.values.lr))
        axes.plot([*trial.curve], [*trial.curve.values()], color=color, marker=".", lw=1)
    if best is not None:
        axes.plot([*best.curve], [*best.curve.values()], color=CHOSEN, marker=".", lw=2)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("validation loss, nats per token")


def _draw_rates(axes: Axes, trials: Sequence[Trial], best: Trial | None) -> None:
    ends = sorted({trial.steps for trial in trials})
    for number, step in enumerate(ends):
        own = [trial for trial in trials if step in trial.curve]
        rates, losses = [trial.values.lr for trial in own], [trial.loss(step) for trial in own]
        shade = str(0.75 - 0.75 * number / max(1, len(ends) - 1))
        axes.plot(rates, losses, color=shade, marker="o", ms=4, lw=1, label=f"{step} steps")
    if best is not None:
        axes.plot([best.values.lr], [best.loss()], color=CHOSEN, marker="*", ms=13, lw=0, label="best")
    axes.set_xlabel("learning rate")
    axes.set_xscale("log")
    axes.legend(frameon=False, fontsize=8)

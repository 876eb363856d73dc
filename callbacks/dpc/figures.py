"""Figures of Dynamic Prompt Corruption (DPC): the trigger as a detector of errors, the threshold."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptstage.callbacks.dpc.files import Calibration
from promptstage.callbacks.dpc.measures import measured_ratios, ranking
from promptstage.callbacks.figures import NEUTRAL, RIGHT, WRONG, blank, entitle, plain
from promptstage.lightning_modules.decoding.dpc import Correction
from promptstage.lightning_modules.functional.statistics import precision_recall

FEWEST = 5  # examples that a histogram or a precision-recall curve needs
CAPTION = (
    "R: share of tokens in the rationale's second half whose flow from the prompt exceeds β, by default the "
    "mean of the first half"
)


def trigger_figure(corrections: Sequence[Correction], subject: str) -> Figure:
    """Draw the distribution of R by grade, and precision against recall over all thresholds."""
    graded = [correction for correction in corrections if correction.before.reference]
    wrong, ratios = measured_ratios(graded)
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    if len(ratios):
        _distribution(left, wrong, ratios, corrections[0].threshold)
    else:
        blank(left, "no rationale of at least 2 tokens")
    counts = {"incorrect": int(wrong.sum()), "correct": int((~wrong).sum())}
    if min(counts.values()) < FEWEST:
        numbers = " and ".join(f"{count} {kind}" for kind, count in counts.items())
        blank(right, f"{numbers} answers:\ntoo few for a\nprecision-recall curve")
    else:
        _precision_recall(right, wrong, ratios, graded)
    few = f"; fewer than {FEWEST} examples are points"
    marks = few if 0 < min(counts.values()) < FEWEST else ""
    entitle(figure, "R as a detector of incorrect answers", plain(subject), f"{CAPTION}{marks}")
    return figure


def _distribution(axes: Axes, wrong: np.ndarray, ratios: np.ndarray, threshold: float | None) -> None:
    greatest = max([ratios.max(), *([threshold] if threshold is not None and threshold < 1 else [])]) or 1.0
    bins = np.linspace(0, greatest, 26).tolist()
    for marks, color, name in ((~wrong, RIGHT, "correct"), (wrong, WRONG, "incorrect")):
        values, label = ratios[marks], f"{name} (n = {int(marks.sum())})"
        if len(values) >= FEWEST:
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, bins, weights=weights, color=color, alpha=0.6, label=label)
        elif len(values):
            axes.plot(values, np.zeros(len(values)), "o", color=color, label=label, clip_on=False)
    if threshold is not None and threshold <= greatest:
        axes.axvline(threshold, color=NEUTRAL, linestyle="--", label=f"threshold {threshold:.3f}")
    elif threshold is not None:
        axes.plot([], [], color=NEUTRAL, linestyle="--", label=f"threshold {threshold:.3f} (beyond the axis)")
    axes.set_xlim(0, 1.02 * greatest)
    axes.set_xlabel("R")
    if axes.patches:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("share of the examples of a grade")
    else:
        axes.set_ylim(-1, 1)
        axes.yaxis.set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("before correction", fontsize=10)


def _precision_recall(
    axes: Axes, wrong: np.ndarray, ratios: np.ndarray, graded: Sequence[Correction]
) -> None:
    curve = precision_recall(wrong, ratios)
    axes.step(curve.recall, curve.precision, where="post", color=WRONG, label="trigger, all thresholds of R")
    axes.axhline(wrong.mean(), color=NEUTRAL, linestyle=":", label="chance: share of incorrect answers")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall of incorrect answers")
    axes.set_ylabel("precision")
    axes.legend(frameon=False, fontsize=8)
    scores = ranking(graded)
    axes.set_title(
        f"AUROC {scores['auroc']:.3f}, average precision {scores['average_precision']:.3f}", fontsize=10
    )


def threshold_figure(calibration: Calibration, subject: str) -> Figure:
    """Draw the accuracy after correction and the share that is triggered against the threshold."""
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    curve, n = calibration.curve, calibration.n
    thresholds = [point["threshold"] for point in curve]
    accuracy = [point["correct"] / n for point in curve]
    upper.step(thresholds, accuracy, where="post", color=RIGHT, label="after correction")
    upper.axhline(calibration.correct_before / n, color=NEUTRAL, linestyle=":", label="before correction")
    upper.set_ylabel("accuracy")
    lower.step(thresholds, [point["triggered"] / n for point in curve], where="post", color=WRONG)
    lower.set_ylabel("share triggered")
    lower.set_ylim(0, 1.02)
    lower.set_xlabel("threshold of R")
    for axes in (upper, lower):
        label = f"selected: {calibration.threshold:.3f}"
        axes.axvline(calibration.threshold, color=NEUTRAL, linestyle="--", label=label)
    # Beyond the greatest R nothing changes.
    last = max([t for t, point in zip(thresholds, curve, strict=True) if point["triggered"]], default=1.0)
    lower.set_xlim(-0.02, 1.05 * max(calibration.threshold, min(1.0, 1.3 * last)))
    upper.legend(frameon=False, fontsize=8)
    caption = f"{CAPTION}. An example is triggered if its R exceeds the threshold; n = {n}."
    entitle(figure, "Calibration of the threshold of R", plain(subject), caption)
    return figure

"""Figures that compare examples: accumulation against none, correct against incorrect answers (DPC §2.2)."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptstage.callbacks.figures import NEUTRAL, RIGHT, WRONG
from promptstage.callbacks.saliency_curves import band, finish_layers
from promptstage.callbacks.saliency_files import SENDERS, Floats, Saved
from promptstage.lightning_modules.functional.information_flow import (
    Conditional,
    change_given_accumulation,
    late_layers,
)
from promptstage.lightning_modules.functional.rank_test import Comparison, compare_groups

SYMBOLS = {
    "prompt_to_question": "$S_{pq}$, prompt to question",
    "prompt_to_rationale": "$S_{pr}$, prompt to rationale",
    "question_to_second_half": "$S_{qr}$, question to second half",
    "first_half_to_second_half": "$S_{rr}$, first to second half",
}


def changes(saved: Saved, quantile: float = 0.75) -> tuple[Conditional, float]:
    """Compute how often late flow changes with and without accumulation, and Fisher's exact p (DPC Fig. 4a).

    The paper gives no threshold for a change: here it is a quantile of these examples' S_IFP.
    """
    from scipy.stats import fisher_exact

    late = saved.arrays["late"]
    changed = late > np.nanquantile(late, quantile)
    accumulated = np.array([one is not None for one in saved.accumulations()])
    groups = (accumulated, ~accumulated)
    table = [[int((changed & group).sum()), int((~changed & group).sum())] for group in groups]
    return change_given_accumulation(changed, accumulated), float(fisher_exact(table).pvalue)


def accumulation(saved: Saved, quantile: float = 0.75) -> Figure:
    """P(the late flow changes) with accumulation and without (DPC Fig. 4a)."""
    found, p = changes(saved, quantile)
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.add_subplot()
    counts = (found.accumulated, found.examples - found.accumulated)
    names = [f"accumulation\n(n = {counts[0]})", f"none\n(n = {counts[1]})"]
    axes.bar(names, np.nan_to_num([found.with_accumulation, found.without]), color=[WRONG, RIGHT])
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"share with S_IFP above its {quantile:.0%} quantile")
    axes.set_title(f"Fisher's exact p = {p:.2g}", fontsize=10)
    return figure


def compare_late_flow(saved: Saved) -> Comparison:
    """The test of DPC Fig. 4b, c; there must be correct and incorrect examples."""
    return compare_groups(saved.arrays["late"], saved.correct)


def late_flow(saved: Saved) -> Figure:
    """S_IFP of correct and incorrect examples, with a two-sided Mann-Whitney test (DPC Fig. 4b, c)."""
    late, found = saved.arrays["late"], compare_late_flow(saved)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, box = figure.subplots(1, 2, width_ratios=[2, 1])
    bins = np.histogram_bin_edges(late[late <= np.nanquantile(late, 0.99)], bins=30)
    groups = [late[saved.correct == 1], late[saved.correct == 0]]
    for values, color, name in zip(groups, (RIGHT, WRONG), ("correct", "incorrect"), strict=True):
        weights = np.full(len(values), 1 / len(values))
        label = f"{name} (n = {len(values)})"
        left.hist(values, bins.tolist(), weights=weights, color=color, alpha=0.6, label=label)
    last = saved.about.layers[-1]
    left.set_xlabel(f"S_IFP: prompt to the rationale's second half, layer {last} (up to its 99 % quantile)")
    left.set_ylabel("share of examples")
    left.legend(frameon=False)
    box.boxplot(groups, tick_labels=["correct", "incorrect"], showfliers=False)
    figure.suptitle(
        f"P(incorrect > correct) = {found.greater:.3f}, Mann-Whitney p = {found.p:.2g}", fontsize=10
    )
    return figure


class LateShare(NamedTuple):
    """A source's share of the flow to the second half in the late layers.

    Attributes:
        incorrect, correct: medians of the two groups.
    """

    source: str
    incorrect: float
    correct: float
    compared: Comparison


def late_shares(saved: Saved) -> list[LateShare]:
    """Compare the sources' shares in the last third of the layers, without a prompt that is hidden there."""
    sources = SENDERS if saved.about.stages else SENDERS[1:]
    found = []
    for source in sources:
        values = saved.in_late_layers(saved.share_from(source))
        if np.isnan(values).all():
            continue
        wrong, right = (float(np.nanmedian(values[saved.correct == mark])) for mark in (0, 1))
        compared = compare_groups(values, saved.correct)
        found.append(LateShare(source.replace("_", " "), wrong, right, compared))
    return found


def span_of_layers(saved: Saved) -> str:
    """The last third of the layers in words."""
    chosen = late_layers(saved.about.layers)
    return f"layer {chosen[0]}" if len(chosen) == 1 else f"layers {chosen[0]} to {chosen[-1]}"


def by_grade(saved: Saved) -> Figure:
    """Flows of correct against incorrect examples by layer: medians and quartiles (DPC Fig. 3, DHAM §3).

    Above: S_pq, S_pr, S_qr and S_rr, means over visible pairs. Below: shares of what the rationale's second
    half receives. One two-sided Mann-Whitney test for each panel, of every example's mean over the last third
    of the layers (shaded); the p-values are not corrected for the number of panels.
    """
    prompt = bool(saved.about.stages)
    measures = saved.measures()
    upper = {title: measures[name] for name, title in SYMBOLS.items() if name in measures}
    lower = {
        f"share from {source.replace('_', ' ')}": saved.share_from(source)
        for source in (SENDERS if prompt else SENDERS[1:])
    }
    across = max(len(upper), len(lower))
    figure = Figure(figsize=(3.7 * across, 7.4), layout="constrained")
    panels = figure.subplots(2, across, squeeze=False)
    for row, named in zip(panels, (upper, lower), strict=True):
        for axes, (title, values) in zip(row, named.items(), strict=False):
            _by_grade(axes, saved, title, values)
        for axes in row[len(named) :]:
            axes.remove()
    panels[0, 0].set_ylabel("mean saliency; median of examples")
    panels[1, 0].set_ylabel("share of what the second half receives")
    figure.suptitle(
        f"{saved.about.split}, {saved.about.label} as label: correct against incorrect answers; "
        f"tests over {span_of_layers(saved)} (shaded)",
        fontsize=11,
    )
    return figure


def _by_grade(axes: Axes, saved: Saved, title: str, values: Floats) -> None:
    layers = saved.about.layers
    for mark, color, name in ((1, RIGHT, "correct"), (0, WRONG, "incorrect")):
        chosen = values[saved.correct == mark]
        band(axes, layers, chosen, color, f"{name} (n = {len(chosen)})")
    late = late_layers(layers)
    axes.axvspan(late[0] - 0.5, late[-1] + 0.5, color=NEUTRAL, alpha=0.08, linewidth=0)
    averages = saved.in_late_layers(values)
    if np.isnan(averages).all():
        test = "the prompt is hidden from the shaded layers"
    else:
        found = compare_groups(averages, saved.correct)
        test = f"P(incorrect > correct) = {found.greater:.3f}, p = {found.p:.2g}"
    axes.set_title(f"{title}\n{test}", fontsize=10)
    finish_layers(axes, saved.about)

"""Figures that compare groups of examples: with and without accumulation, correct and incorrect answers.

After §2.2 and Figures 3 and 4 of DPC ("Improving complex reasoning with Dynamic Prompt Corruption", Fan et
al., ICLR 2025, arXiv:2503.13208) and §3 of DHAM ("Unlocking coherent reasoning in LLMs with hierarchical
soft prompts", anonymous, under review).
"""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptstage.callbacks.figures import NEUTRAL, RIGHT, WRONG, entitle, scientific
from promptstage.callbacks.saliency.curves import BANDS, band, finish_layers, stage_lines, subject
from promptstage.callbacks.saliency.files import SENDERS, Floats, Saved
from promptstage.lightning_modules.functional.information_flow import (
    Conditional,
    change_given_accumulation,
    late_layers,
)
from promptstage.lightning_modules.functional.statistics import Comparison, compare_groups, fisher_p
from promptstage.utilities.plurals import ranged

FEWEST = 5  # examples that a box plot needs; fewer are drawn as points
FLOW = "median saliency per visible pair"
SYMBOLS = {
    "prompt_to_question": "$S_{pq}$, prompt to question",
    "prompt_to_rationale": "$S_{pr}$, prompt to rationale",
    "question_to_second_half": "$S_{qr}$, question to second half",
    "first_half_to_second_half": "$S_{rr}$, first to second half",
}


def has_halves(saved: Saved) -> bool:
    """Return whether an answer has two halves to compare, that is more than one token."""
    return bool((saved.arrays["lengths"][:, 1] > 1).any())


def changes(saved: Saved, quantile: float = 0.75) -> tuple[Conditional, float]:
    """Compute P(S_IFP is high) with and without accumulation, and Fisher's exact p (DPC Fig. 4a).

    The paper gives no threshold for a change of S_IFP: here it is a quantile of these examples' values.
    """
    late = saved.arrays["late"]
    changed = late > np.nanquantile(late, quantile)
    accumulated = np.array([accumulation is not None for accumulation in saved.accumulations()])
    return change_given_accumulation(changed, accumulated), fisher_p(changed, accumulated)


def accumulation(saved: Saved, quantile: float = 0.75) -> Figure:
    """Draw the share of examples with high S_IFP, with accumulation and without (DPC Fig. 4a)."""
    conditional, p = changes(saved, quantile)
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    counts = (conditional.accumulated, conditional.examples - conditional.accumulated)
    names = [f"accumulation\n(n = {counts[0]})", f"no accumulation\n(n = {counts[1]})"]
    bars = axes.bar(names, [conditional.with_accumulation, conditional.without], color=[WRONG, RIGHT])
    axes.bar_label(bars, fmt="{:.2f}")
    axes.set_ylim(0, 1.08)
    axes.set_ylabel("share of examples with high S_IFP")
    axes.set_title(f"Fisher's exact p = {p:.2g}", fontsize=10)
    about = saved.about
    entitle(
        figure,
        "Late flow from the prompt (S_IFP) and accumulation in shallow layers",
        subject(saved),
        f"high: above the {quantile:.0%} quantile of all examples; accumulation: in a shallow layer, flow "
        f"from one virtual token is more than {about.alpha:g} times the mean of all",
    )
    return figure


def compare_late_flow(saved: Saved) -> Comparison:
    """Compare S_IFP of correct and incorrect examples, of which there must be some (DPC Fig. 4b, c)."""
    return compare_groups(saved.arrays["late"], saved.correct)


def late_flow(saved: Saved) -> Figure:
    """Draw S_IFP of correct and incorrect examples, with a two-sided Mann-Whitney test (DPC Fig. 4b, c)."""
    late, test = saved.arrays["late"], compare_late_flow(saved)
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    left, box = figure.subplots(1, 2, width_ratios=[2, 1])
    for place, (mark, color, name) in enumerate(((1, RIGHT, "correct"), (0, WRONG, "incorrect"))):
        values = late[saved.correct == mark]
        left.ecdf(values, color=color, label=f"{name} (n = {len(values)})")
        if len(values) < FEWEST:
            box.plot([place] * len(values), values, "o", color=color)
        else:
            box.boxplot(values, positions=[place], widths=0.5, showfliers=False, medianprops={"color": color})
    left.set_xlim(right=np.nanquantile(late, 0.99))
    left.set_xlabel("S_IFP")
    left.set_ylabel("share of examples up to this S_IFP")
    left.legend(frameon=False, loc="lower right")
    left.set_title(f"P(incorrect > correct) = {test.greater:.3f}, Mann-Whitney p = {test.p:.2g}", fontsize=10)
    box.set_xticks([0, 1], ["correct", "incorrect"])
    box.set_xlim(-0.5, 1.5)
    box.set_ylabel("S_IFP")
    scientific(left, "x")
    scientific(box)
    last = saved.about.layers[-1]
    entitle(
        figure,
        "Late flow from the prompt (S_IFP) of correct and incorrect answers",
        subject(saved),
        f"S_IFP: mean saliency of layer {last} from the prompt to the second half of the rationale. Left: "
        "cumulative distributions, up to the 99% quantile; right: boxes are quartiles, whiskers at most 1.5 "
        f"times the box; fewer than {FEWEST} examples are points.",
    )
    return figure


class LateShare(NamedTuple):
    """Share of the flow to the rationale's second half that comes from one source, in the late layers.

    Attributes:
        incorrect, correct: medians of the two groups.
        compared: test of the two groups.
    """

    source: str
    incorrect: float
    correct: float
    compared: Comparison


def late_shares(saved: Saved) -> list[LateShare]:
    """Compare the sources' shares in the last third of the layers; a prompt hidden there is left out."""
    sources = SENDERS if saved.about.stages else SENDERS[1:]
    shares = []
    for source in sources:
        values = saved.in_late_layers(saved.share_from(source))
        if np.isnan(values).all():
            continue
        wrong, right = (float(np.nanmedian(values[saved.correct == mark])) for mark in (0, 1))
        compared = compare_groups(values, saved.correct)
        shares.append(LateShare(source.replace("_", " "), wrong, right, compared))
    return shares


def span_of_layers(saved: Saved) -> str:
    """Return the last third of the layers as text."""
    return ranged(late_layers(saved.about.layers), "layer")


def by_grade(saved: Saved) -> Figure:
    """Draw flows of correct against incorrect examples by layer (DPC Fig. 3, DHAM §3).

    Above: S_pq, S_pr, S_qr and S_rr, means over visible pairs. Below: shares of the flow to the rationale's
    second half. One two-sided Mann-Whitney test per panel, over each example's mean in the last third of the
    layers (shaded); p-values are not corrected for the number of panels.
    """
    prompt = bool(saved.about.stages)
    measures = saved.measures()
    upper = {title: measures[name] for name, title in SYMBOLS.items() if name in measures}
    lower = {
        f"share from {source.replace('_', ' ')}": saved.share_from(source)
        for source in (SENDERS if prompt else SENDERS[1:])
    }
    across = max(len(upper), len(lower))
    figure = Figure(figsize=(3.7 * across, 8.2), layout="constrained")
    panels = figure.subplots(2, across, squeeze=False)
    for row, named in zip(panels, (upper, lower), strict=True):
        for axes, (title, values) in zip(row, named.items(), strict=False):
            _by_grade(axes, saved, title, values)
        for axes in row[len(named) :]:
            axes.remove()
    panels[0, 0].set_ylabel(FLOW)
    panels[1, 0].set_ylabel("share of the flow to the second half")
    entitle(
        figure,
        "Information flow of correct and incorrect answers; halves are of the rationale",
        subject(saved),
        f"{BANDS}{stage_lines(saved)}; P and p: two-sided Mann-Whitney test per panel of each example's mean "
        f"over {span_of_layers(saved)} (shaded), not corrected for the number of panels",
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
        compared = compare_groups(averages, saved.correct)
        test = f"P(incorrect > correct) = {compared.greater:.3f}, p = {compared.p:.2g}"
    axes.set_title(f"{title}\n{test}", fontsize=10)
    scientific(axes)
    finish_layers(axes, saved.about)

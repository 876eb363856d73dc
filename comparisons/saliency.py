"""Comparison of the saliency of several runs: figures on common scales and a table of curve shapes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from promptstage.callbacks.figures import png
from promptstage.callbacks.saliency.curves import curves, differences_of, gaps_of
from promptstage.callbacks.saliency.files import Saved, load
from promptstage.lightning_modules.functional.information_flow import curve_shape
from promptstage.utilities.errors import UserError, choose, printable
from promptstage.utilities.files import make_folder, write_bytes

BAR = r"\|"  # escaped in a table cell
Examples = Literal["correct", "shared", "all"]


def chosen_examples(
    named: Mapping[str, Saved], examples: Examples
) -> tuple[dict[str, Saved], dict[str, Saved], str]:
    """Restrict runs to the examples to compare.

    Args:
        examples: ``correct``: examples that are correct in all runs, or ``shared`` if a run has no grades;
            ``shared``: examples that all runs have; ``all``: all examples of each run.

    Returns:
        Runs with these examples, runs with the examples for the gaps, and a description of the choice.

    Raises:
        UserError: if no example is left.
    """
    if examples == "all":
        counts = ", ".join(f"{len(saved.ids)} of {name}" for name, saved in named.items())
        return dict(named), dict(named), f"all examples of each run: {counts}"
    known = set.intersection(*(set(saved.ids) for saved in named.values()))
    shared = [name for name in next(iter(named.values())).ids if name in known]
    if not shared:
        raise UserError("the runs have no common example: compare all examples with --examples all")
    every = {name: _restricted(saved, shared) for name, saved in named.items()}
    if examples == "shared":
        return every, every, f"the {len(shared)} examples that all runs share"
    ungraded = [name for name, saved in every.items() if np.isnan(saved.correct).all()]
    if ungraded:
        note = f"the {len(shared)} examples that all runs share, correct or not: no grades in {ungraded[0]}"
        return every, every, note
    grades = np.stack([saved.correct for saved in every.values()])
    right = [name for place, name in enumerate(shared) if (grades[:, place] == 1).all()]
    if not right:
        raise UserError(
            f"none of the {len(shared)} shared examples is correct in all runs: compare them with "
            "--examples shared"
        )
    restricted = {name: _restricted(saved, right) for name, saved in every.items()}
    return (
        restricted,
        every,
        f"the {len(right)} of {len(shared)} shared examples that are correct in all runs",
    )


def _restricted(saved: Saved, ids: Sequence[str]) -> Saved:
    places = {name: place for place, name in enumerate(saved.ids)}
    return saved.select([places[name] for name in ids])


def table(named: Mapping[str, Saved]) -> list[str]:
    """Return a Markdown table: shape of the median curve, and medians of the shapes of single curves."""
    lines = [
        "| run | examples | curve of medians: peaks, reversals, variation, peak | examples' median: peaks, "
        "reversals, variation |",
        "| --- | --- | --- | --- |",
    ]
    for name, saved in named.items():
        values = saved.arrays["curve"]
        whole = curve_shape(np.median(values, axis=0))
        shapes = np.median([curve_shape(curve)[:3] for curve in values], axis=0)
        peak = f"layer {saved.about.layers[whole.peak_layer]}"
        cell = name.replace("|", BAR)
        lines.append(
            f"| {cell} | {len(values)} | {whole.peaks}, {whole.reversals}, {whole.variation:.2f}, {peak} "
            f"| {shapes[0]:g}, {shapes[1]:g}, {shapes[2]:.2f} |"
        )
    return lines


def compare_saliency(
    runs: Sequence[str], out: Path, examples: str = "correct", stem: str = "saliency"
) -> None:
    """Draw the figures into a folder, and print the table.

    Args:
        runs: ``NAME=FOLDER`` each.
        examples: see :func:`chosen_examples`.
        stem: prefix of the input file names.

    Raises:
        UserError: if a folder has no saliency, or no example is left to compare.
    """
    choose("--examples", examples, get_args(Examples))
    named = {}
    for run in runs:
        name, equals, folder = run.partition("=")
        if not equals:
            raise UserError(f"a run must be NAME=FOLDER, got '{run}'")
        name = printable(name or Path(folder).resolve().name)
        if name in named:
            raise UserError(f"two runs have the name '{name}': give other names as NAME=FOLDER")
        named[name] = load(Path(folder), stem)
    named, graded, note = chosen_examples(named, examples)  # type: ignore[arg-type]  # checked above
    make_folder(out)
    figures = {"curves": curves(named), "differences": differences_of(named), "gaps": gaps_of(graded)}
    for name, figure in figures.items():
        write_bytes(out / f"{name}.png", png(figure))
    print(f"examples: {note}")
    print("\n".join(table(named)))
    print(f"figures are in {out}")

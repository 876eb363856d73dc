"""Saliency of several runs side by side: figures on shared scales, and a table of the curves' shapes.

    python -m scripts.compare_saliency --out FOLDER "bare=runs/bare/validate" "layer 0=runs/pt/validate"

Each folder holds what ``SaliencyDiagnostics`` wrote.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from callbacks.figures import png
from callbacks.saliency_curves import curves, differences_of, gaps_of
from callbacks.saliency_files import Saved, load
from lightning_modules.functional.information_flow import curve_shape
from utilities.errors import UserError
from utilities.files import write_bytes


def table(named: Mapping[str, Saved]) -> list[str]:
    """A Markdown table: shape of the median curve, and medians of the examples' own shapes."""
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
        lines.append(
            f"| {name} | {len(values)} | {whole.peaks}, {whole.reversals}, {whole.variation:.2f}, {peak} "
            f"| {shapes[0]:g}, {shapes[1]:g}, {shapes[2]:.2f} |"
        )
    return lines


def main(args: Sequence[str] | None = None) -> int:
    """Draw and print; the exit code is 0, or 2 for a mistake of the user."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    parser.add_argument("--stem", default="saliency", help="what the files' names begin with")
    options = parser.parse_args(args)
    try:
        named = {}
        for run in options.runs:
            name, equals, folder = run.partition("=")
            if not equals:
                raise UserError(f"'{run}' is not NAME=FOLDER")
            named[name] = load(Path(folder), options.stem)
        options.out.mkdir(parents=True, exist_ok=True)
        figures = {"curves": curves(named), "differences": differences_of(named), "gaps": gaps_of(named)}
        for name, figure in figures.items():
            write_bytes(options.out / f"{name}.png", png(figure))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(table(named)))
    print(f"figures are in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

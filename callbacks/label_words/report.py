"""Report of label words: a line in the terminal, scalars and figures in all loggers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.label_words.files import STEM
from promptstage.callbacks.run.loggers import log_figures, log_scalars, log_series
from promptstage.lightning_modules.label_word_summary import extraction_of
from promptstage.utilities.plurals import counted

BY_LAYER = {"flow": "flow_.*", "extraction": "aucroc|accumulated_aucroc", "diagnosis": "spearman"}


def report(trainer: L.Trainer, folder: Path, summary: Mapping[str, Any], subject: str) -> None:
    """Print a line, log scalars and draw figures.

    Args:
        folder: folder of the files.
        subject: run, method and data set, for titles.
    """
    from promptstage.callbacks.label_words.figures import all_figures

    rank_zero_info(f"{summary_line(summary)}; files: {folder / STEM}*")
    log_scalars(trainer, {f"label_words/{name}": value for name, value in scalars(summary).items()})
    series = {
        f"label_words/by_layer/{name}": {
            layer: value
            for layer, value in zip(summary["layers"], values, strict=True)
            if value is not None and value == value  # no NaN
        }
        for name, values in by_layer(summary).items()
    }
    layout = {title: ["Multiline", [f"label_words/by_layer/{names}"]] for title, names in BY_LAYER.items()}
    if series:
        log_series(trainer, series, folder / "label_words_by_layer", {"label words by layer": layout})
    log_figures(trainer, all_figures(summary, subject), "label_words", folder, f"{STEM}_")


def scalars(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the measures without a layer, by name."""
    values = {"accuracy": summary["accuracy"]} if "accuracy" in summary else {}
    for row in summary.get("isolation", ()):
        name = f"isolation/{row['place']}_{row['layers']}_{row['rows']}"
        values |= {f"{name}/label_loyalty": row["label_loyalty"], f"{name}/word_loyalty": row["word_loyalty"]}
    if compression := summary.get("compression"):
        for name, loyalty in compression["methods"].items():
            values |= {f"compression/{name}/{measure}": value for measure, value in loyalty.items()}
        values["compression/speed_up"] = compression["speed_up"]
    return values


def by_layer(summary: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the measures with a value for each layer, by name."""
    values = {f"flow_{name}": flow for name, flow in summary.get("flows", {}).items()}
    if extraction := extraction_of(summary):
        values["aucroc"] = extraction["aucroc"]
        values["accumulated_aucroc"] = extraction["accumulated"]
    if diagnosis := summary.get("diagnosis"):
        values["spearman"] = diagnosis["spearman"]
    return values


def summary_line(summary: Mapping[str, Any]) -> str:
    """Return the main measures in one line."""
    parts = [f"label words of {counted(summary['examples'], 'example')}"]
    if "accuracy" in summary:
        low, high = summary["accuracy_low"], summary["accuracy_high"]
        parts[0] += f": accuracy {summary['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f})"
    if rows := summary.get("isolation"):
        deepest = max(row["layers"] for row in rows)
        own = {(row["place"], row["rows"]): row["label_loyalty"] for row in rows if row["layers"] == deepest}
        first, last, control = (
            own["first", "label_words"],
            own["last", "label_words"],
            own["first", "random_words"],
        )
        parts.append(
            f"label loyalty with label words isolated in the first {deepest} layers {first:.3f}, in the last "
            f"{last:.3f}, with random words in the first {control:.3f}"
        )
    if compression := summary.get("compression"):
        anchor = compression["methods"]["hidden_anchor"]
        parts.append(
            f"compressed to {compression['share_kept']:.0%} of the context: label loyalty "
            f"{anchor['label_loyalty']:.3f}, accuracy {anchor['accuracy']:.3f}, "
            f"{compression['speed_up']:.2f} times as fast"
        )
    return "; ".join(parts)

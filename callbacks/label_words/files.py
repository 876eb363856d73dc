"""Output files of ``LabelWords``: ``label_words.json`` for all examples, ``label_words.jsonl`` for each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from promptstage.lightning_modules.functional.label_words import LabelFlows
from promptstage.lightning_modules.label_words import ANCHORS, Settings
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json

FORMAT = 1
STEM = "label_words"

Floats = NDArray[np.float64]


class Measured(NamedTuple):
    """Measures of one example, on the CPU (see ``LabelWordRuns.measure``)."""

    id: str
    arrays: dict[str, Tensor]


def stacked(measured: Sequence[Measured]) -> dict[str, Floats]:
    """Stack the arrays of all examples, by name."""
    first = measured[0].arrays
    return {name: np.stack([row.arrays[name].double().numpy() for row in measured]) for name in first}


def write_files(
    folder: Path,
    summary: Mapping[str, Any],
    settings: Settings,
    words: Sequence[str],
    measured: Sequence[Measured],
) -> None:
    """Write ``label_words.json`` and ``label_words.jsonl``, with a line for each example."""
    write_text(
        folder / f"{STEM}.json", dump_json(without_nan({"format": FORMAT, **summary}), indent=2) + "\n"
    )
    rows = [_row(example, settings, words) for example in measured]
    write_text(folder / f"{STEM}.jsonl", "".join(dump_json(without_nan(row)) + "\n" for row in rows))


def _row(example: Measured, settings: Settings, words: Sequence[str]) -> dict[str, Any]:
    arrays: dict[str, Any] = {name: value.tolist() for name, value in example.arrays.items()}
    gold = arrays["gold"]
    row: dict[str, Any] = {
        "id": example.id,
        "gold": None if gold < 0 else words[gold],
        "predicted": words[arrays["predicted"]],
        "probabilities": dict(zip(words, arrays["probabilities"], strict=True)),
    }
    if "flows" in arrays:
        row["flows"] = dict(zip(LabelFlows._fields, zip(*arrays["flows"], strict=True), strict=True))
    if "scores" in arrays:
        row["attention_on_label_words"] = arrays["scores"]
    if "isolated" in arrays:
        names = [f"{place}_{depth}_{rows}" for place, rows, depth in settings.isolations()]
        row["isolated"] = {
            name: words[int(number)] for name, (number, _) in zip(names, arrays["isolated"], strict=True)
        }
    if "compressed" in arrays:
        names = [*ANCHORS, *(f"hidden_random_{draw}" for draw in range(settings.draws))]
        row["compressed"] = {
            name: words[int(number)] for name, (number, _) in zip(names, arrays["compressed"], strict=True)
        }
    return row


def without_nan(value: Any) -> Any:
    """Replace NaN by None in nested lists and dictionaries, since JSON has none."""
    if isinstance(value, Mapping):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Measures of what Dynamic Prompt Corruption (DPC) changed, and of R as a detector of incorrect answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from promptstage.lightning_modules.decoding.dpc import Correction
from promptstage.lightning_modules.functional.paired import mcnemar_p
from promptstage.lightning_modules.functional.statistics import auroc, average_precision, wilson_interval


def summarize(corrections: Sequence[Correction]) -> dict[str, Any]:
    """Compute counts, accuracies with 95 % Wilson intervals, McNemar's exact test and detection measures.

    Precision and recall are those of the trigger for answers that were incorrect before; ``auroc`` and
    ``average_precision`` are those of R over all thresholds. Undefined measures are None.
    """
    graded = [correction for correction in corrections if correction.before.reference]
    before = np.array([correction.before.correct for correction in graded], dtype=bool)
    after = np.array([correction.after.correct for correction in graded], dtype=bool)
    triggered = np.array([correction.triggered for correction in graded], dtype=bool)
    fixed, broken = int((after & ~before).sum()), int((before & ~after).sum())
    summary: dict[str, Any] = {
        "examples": len(corrections),
        "graded": len(graded),
        "triggered": sum(correction.triggered for correction in corrections),
        "corrected": sum(correction.token is not None for correction in corrections),
        "share_triggered": sum(correction.triggered for correction in corrections) / len(corrections),
        "too_short": sum(correction.ratio is None for correction in corrections),
        "fixed": fixed,
        "broken": broken,
        "mcnemar_p": mcnemar_p(fixed, broken),
    }
    for name, marks in (("before", before), ("after", after)):
        low, high = wilson_interval(int(marks.sum()), len(marks)) if len(marks) else (None, None)
        summary |= {f"correct_{name}": int(marks.sum()), f"accuracy_{name}": _share(marks)}
        summary |= {f"accuracy_{name}_low": low, f"accuracy_{name}_high": high}
    summary["precision"] = _share(~before[triggered])
    summary["recall"] = _share(triggered[~before])
    summary |= ranking(graded)
    summary["seconds"] = round(sum(correction.seconds for correction in corrections), 3)
    return summary


def ranking(graded: Sequence[Correction]) -> dict[str, float | None]:
    """Compute AUROC and average precision of R for incorrect answers; None if all have the same grade."""
    wrong, ratios = measured_ratios(graded)
    if wrong.all() or not wrong.any():
        return {"auroc": None, "average_precision": None}
    return {"auroc": auroc(wrong, ratios), "average_precision": average_precision(wrong, ratios)}


def measured_ratios(graded: Sequence[Correction]) -> tuple[np.ndarray, np.ndarray]:
    """Return whether answers were incorrect before, and their R, without examples that have no R."""
    pairs = [
        (not correction.before.correct, correction.ratio)
        for correction in graded
        if correction.ratio is not None
    ]
    return np.array([wrong for wrong, _ in pairs], dtype=bool), np.array([ratio for _, ratio in pairs])


def _share(marks: np.ndarray) -> float | None:
    return float(marks.mean()) if len(marks) else None

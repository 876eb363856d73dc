"""What DPC did to a split: files, a line in the terminal, and pages and figures in TensorBoard."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure

from promptstage.callbacks.board import boards, code_block, logged_step
from promptstage.callbacks.dpc_files import FILE, Calibration, Correction, save_calibration
from promptstage.callbacks.figures import NEUTRAL, RIGHT, WRONG, png
from promptstage.callbacks.partial_lines import write_or_rescue
from promptstage.datamodules.repeats import warn_repeated
from promptstage.utilities.files import write_bytes, write_text
from promptstage.utilities.intervals import mcnemar, wilson_interval

SHOWN = 6  # examples on the page of text


def report(
    trainer: L.Trainer,
    folder: Path,
    found: Sequence[Correction],
    about: dict[str, Any],
    calibration: Calibration | None,
    target: Path | None,
) -> None:
    """Write, print and draw.

    Args:
        target: file that the calibration is saved to for ``test``.
    """
    summary = about | summarize(found)
    if calibration is not None and target is not None:
        save_calibration(calibration, target)  # first, as the result of the command
        given = f"--trainer.callbacks callbacks.dpc.DPC --trainer.callbacks.threshold {folder}"
        where = f"the threshold is in {target}"
        rank_zero_info(f"DPC: {where}: test with {given}" if target.parent == folder else f"DPC: {where}")
    write_or_rescue(folder / "dpc.jsonl", (correction.line() for correction in found))
    write_text(folder / "dpc_summary.json", json.dumps(summary, indent=2) + "\n")
    figures = {}
    if summary["graded"]:
        figures["trigger"] = trigger_figure(found)
        rank_zero_info(told(summary))
    if calibration is not None:
        if target != folder / FILE:
            save_calibration(calibration, folder / FILE)
        figures["threshold"] = threshold_figure(calibration)
        rank_zero_info(
            f"DPC: threshold {calibration.threshold} on {calibration.n} {calibration.split} examples: "
            f"{calibration.triggered} corrected, {calibration.correct_before} correct before and "
            f"{calibration.correct_after} after"
        )
        for text in calibration_warnings(calibration, found):
            rank_zero_info(text)
        warn_repeated("the threshold", [correction.before.question for correction in found])
    for name, figure in figures.items():
        write_bytes(folder / f"dpc_{name}.png", png(figure))
    step = logged_step(trainer)
    for logger in boards(trainer):
        logger.experiment.add_text("dpc/before_after", page(found), step)
        for name, figure in figures.items():
            logger.experiment.add_figure(f"dpc/{name}", figure, step, close=False)
        prefix = "dpc" if calibration is None else "calibrate"
        for name, value in scalars(summary, calibration).items():
            logger.experiment.add_scalar(f"{prefix}/{name}", value, step)
        ratios = np.array([one.ratio for one in found if one.ratio is not None])
        if len(ratios):
            logger.experiment.add_histogram(f"{prefix}/R", ratios, step)


def scalars(summary: dict[str, Any], calibration: Calibration | None) -> dict[str, float]:
    """Return what TensorBoard shows as scalars; accuracies only of graded answers.

    Args:
        summary: of :func:`summarize`.
        calibration: its threshold's accuracy in place of the one with every answer corrected.
    """
    if calibration is not None:
        return {
            "accuracy_before": calibration.correct_before / calibration.n,
            "accuracy_at_threshold": calibration.correct_after / calibration.n,
            "threshold": calibration.threshold,
        }
    shares = {name: summary[name] for name in ("accuracy_before", "accuracy_after", "share_triggered")}
    return {name: value for name, value in shares.items() if value is not None}


def calibration_warnings(calibration: Calibration, corrections: Sequence[Correction]) -> list[str]:
    """Return warnings about a threshold that the examples do not support."""
    ratios = {correction.ratio for correction in corrections} - {None}
    warnings = []
    if len(ratios) < 2:
        kind = f"the same, {ratios.pop()}," if ratios else "undefined"
        warnings.append(f"R is {kind} in all {calibration.n} examples: no threshold separates them")
    if not calibration.triggered:
        warnings.append("no threshold increases the number of correct answers: test will correct none")
    return [f"warning: DPC: {text}" for text in warnings]


def summarize(found: Sequence[Correction]) -> dict[str, Any]:
    """Counts, accuracies with 95 % Wilson intervals, McNemar's exact test, the trigger as error detector.

    Precision and recall are of the triggered among examples that were wrong before; ``auroc`` and
    ``average_precision`` are R's, over all thresholds. What cannot be said is None.
    """
    graded = [one for one in found if one.before.reference]
    before = np.array([one.before.correct for one in graded], dtype=bool)
    after = np.array([one.after.correct for one in graded], dtype=bool)
    triggered = np.array([one.triggered for one in graded], dtype=bool)
    fixed, broken = int((after & ~before).sum()), int((before & ~after).sum())
    summary: dict[str, Any] = {
        "examples": len(found),
        "graded": len(graded),
        "triggered": sum(one.triggered for one in found),
        "corrected": sum(one.token is not None for one in found),
        "share_triggered": sum(one.triggered for one in found) / len(found),
        "too_short": sum(one.ratio is None for one in found),
        "fixed": fixed,
        "broken": broken,
        "mcnemar_p": mcnemar(fixed, broken),
    }
    for name, marks in (("before", before), ("after", after)):
        low, high = wilson_interval(int(marks.sum()), len(marks)) if len(marks) else (None, None)
        summary |= {f"correct_{name}": int(marks.sum()), f"accuracy_{name}": _share(marks)}
        summary |= {f"accuracy_{name}_low": low, f"accuracy_{name}_high": high}
    summary["precision"] = _share(~before[triggered])
    summary["recall"] = _share(triggered[~before])
    summary |= ranking(graded)
    summary["seconds"] = round(sum(one.seconds for one in found), 3)
    return summary


def ranking(graded: Sequence[Correction]) -> dict[str, float | None]:
    """How well R ranks wrong before right: AUROC and average precision; None with one kind only."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    wrong, ratios = _measured(graded)
    if wrong.all() or not wrong.any():
        return {"auroc": None, "average_precision": None}
    return {
        "auroc": float(roc_auc_score(wrong, ratios)),
        "average_precision": float(average_precision_score(wrong, ratios)),
    }


def told(summary: dict[str, Any]) -> str:
    """The summary in a line."""
    text = (
        f"DPC ({summary['mode']}): {summary['corrected']} of {summary['examples']} corrected, "
        f"{summary['fixed']} fixed, {summary['broken']} broken; accuracy {summary['accuracy_before']:.3f} to "
        f"{summary['accuracy_after']:.3f} (McNemar p = {summary['mcnemar_p']:.2g})"
    )
    if summary["auroc"] is not None:
        text += f"; AUROC of R for wrong answers {summary['auroc']:.3f}"
    if summary["too_short"]:
        text += f"; {summary['too_short']} rationales of fewer than 2 tokens have no R"
    return text


def trigger_figure(found: Sequence[Correction]) -> Figure:
    """Distribution of R in right and wrong examples, and precision against recall over thresholds."""
    from sklearn.metrics import precision_recall_curve

    wrong, ratios = _measured([one for one in found if one.before.reference])
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = np.linspace(0, 1, 26)
    for marks, color, name in ((~wrong, RIGHT, "correct"), (wrong, WRONG, "incorrect")):
        if marks.any():
            weights = np.full(int(marks.sum()), 1 / marks.sum())
            label = f"{name} (n = {int(marks.sum())})"
            left.hist(ratios[marks], bins.tolist(), weights=weights, color=color, alpha=0.6, label=label)
    threshold = found[0].threshold
    if threshold is not None:
        left.axvline(threshold, color=NEUTRAL, linestyle="--", label=f"threshold {threshold:.3f}")
    left.set_xlabel("R: share of affected tokens in the second half")
    left.set_ylabel("share of examples, as first generated")
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False, fontsize=8)
    right.set_xlim(0, 1)
    right.set_ylim(0, 1.02)
    if wrong.any() and not wrong.all():
        precision, recall, _ = precision_recall_curve(wrong, ratios)
        right.step(recall, precision, where="post", color=WRONG, label="trigger")
        right.axhline(wrong.mean(), color=NEUTRAL, linestyle=":", label="share of wrong answers")
        right.legend(frameon=False, fontsize=8)
    else:
        right.set_title("no correct or no incorrect examples to tell apart", fontsize=9)
    right.set_xlabel("recall of wrong answers")
    right.set_ylabel("precision")
    return figure


def threshold_figure(calibration: Calibration) -> Figure:
    """Accuracy after correction, and the share corrected, against the threshold."""
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    thresholds = [point["threshold"] for point in calibration.curve]
    for name, color, label in (
        ("correct", RIGHT, "accuracy after correction"),
        ("triggered", WRONG, "corrected"),
    ):
        shares = [point[name] / calibration.n for point in calibration.curve]
        axes.step(thresholds, shares, where="post", color=color, label=label)
    axes.axhline(calibration.correct_before / calibration.n, color=NEUTRAL, linestyle=":", label="before")
    axes.axvline(calibration.threshold, color=NEUTRAL, linestyle="--", label="chosen")
    axes.set_xlabel("threshold of R")
    axes.set_ylabel(f"share of {calibration.n} {calibration.split} examples")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8)
    return figure


def page(found: Sequence[Correction]) -> str:
    """A Markdown page: what was fixed, broken and changed to no effect, before and after."""
    corrected = [one for one in found if one.triggered]
    kinds = {
        "fixed": [one for one in corrected if one.after.correct and not one.before.correct],
        "broken": [one for one in corrected if one.before.correct and not one.after.correct],
        "the same grade": [one for one in corrected if one.after.correct == one.before.correct],
    }
    parts = [f"{len(corrected)} of {len(found)} examples were corrected.\n"]
    for kind, ones in kinds.items():
        for one in ones[: SHOWN // 2]:
            about = f"{one.id}, reference {one.before.reference!r}"
            before, after = (
                code_block([f"predicted {record.prediction!r}", "", record.generation])
                for record in (one.before, one.after)
            )
            parts.append(
                f"**{kind}**: R = {one.ratio}, token {one.token}\n\n"
                f"{code_block([about, '', one.before.question])}\nbefore:\n\n{before}\nafter:\n\n{after}"
            )
    return "\n---\n\n".join(parts)


def _measured(graded: Sequence[Correction]) -> tuple[np.ndarray, np.ndarray]:
    """Which examples were wrong before, and their R; those without R are left out."""
    pairs = [(not one.before.correct, one.ratio) for one in graded if one.ratio is not None]
    return np.array([wrong for wrong, _ in pairs], dtype=bool), np.array([ratio for _, ratio in pairs])


def _share(marks: np.ndarray) -> float | None:
    return float(marks.mean()) if len(marks) else None

"""Report of Dynamic Prompt Corruption (DPC) on a split: files, lines in the terminal, loggers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.dpc.files import FILE, RATIO, Calibration, correction_line, save_calibration
from promptstage.callbacks.dpc.measures import summarize
from promptstage.callbacks.run.loggers import code_block, log_figures, log_histogram, log_page, log_scalars
from promptstage.callbacks.run.partial_lines import write_or_rescue
from promptstage.datamodules.repeats import warn_repeated
from promptstage.lightning_modules.decoding.dpc import Correction
from promptstage.utilities.errors import shown_path
from promptstage.utilities.files import write_text

SHOWN = 6  # examples on the page of text


def report(
    trainer: L.Trainer,
    folder: Path,
    corrections: Sequence[Correction],
    about: dict[str, Any],
    subject: str,
    calibration: Calibration | None,
    target: Path | None,
) -> None:
    """Write files, print a summary, and log.

    Args:
        about: settings, for the summary's file.
        subject: run, method and data set, for titles of figures.
        target: file that the calibration is saved to for ``test``.
    """
    from promptstage.callbacks.dpc.figures import threshold_figure, trigger_figure

    summary = about | summarize(corrections)
    if calibration is not None and target is not None:
        save_calibration(calibration, target)  # first, as the result of the command
        given = f"--trainer.callbacks DPC --trainer.callbacks.threshold {folder}"
        use = f"; test with {given}" if target.parent == folder else ""
        rank_zero_info(f"DPC: threshold saved to {shown_path(target)}{use}")
    write_or_rescue(folder / "dpc.jsonl", map(correction_line, corrections))
    write_text(folder / "dpc_summary.json", json.dumps(summary, indent=2) + "\n")
    figures = {}
    if summary["graded"]:
        figures["trigger"] = trigger_figure(corrections, subject)
        rank_zero_info(summary_line(summary))
    if calibration is not None:
        if target != folder / FILE:
            save_calibration(calibration, folder / FILE)
        figures["threshold"] = threshold_figure(calibration, subject)
        rank_zero_info(
            f"DPC: threshold {calibration.threshold:.4g} of {RATIO} maximizes accuracy on {calibration.n} "
            f"{calibration.split} examples: {calibration.triggered} triggered, {calibration.correct_before} "
            f"correct before and {calibration.correct_after} after"
        )
        for text in calibration_warnings(calibration, corrections):
            rank_zero_info(text)
        warn_repeated("the threshold", [correction.before.question for correction in corrections])
    log_figures(trainer, figures, "dpc", folder, "dpc_")
    log_page(trainer, "dpc/before_after", sections(corrections))
    prefix = "dpc" if calibration is None else "calibrate"
    values = {f"{prefix}/{name}": value for name, value in scalars(summary, calibration).items()}
    log_scalars(trainer, values)
    ratios = [correction.ratio for correction in corrections if correction.ratio is not None]
    if ratios:
        log_histogram(trainer, f"{prefix}/R", ratios)


def scalars(summary: dict[str, Any], calibration: Calibration | None) -> dict[str, float]:
    """Return the scalars to log; accuracies only of graded answers.

    Args:
        summary: result of :func:`summarize`.
        calibration: its threshold's accuracy replaces the one with every answer corrected.
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
        warnings.append(f"{RATIO} is {kind} in all {calibration.n} examples: no threshold separates them")
    if not calibration.triggered:
        warnings.append("no threshold increases the number of correct answers: test will correct none")
    return [f"warning: DPC: {text}" for text in warnings]


def summary_line(summary: dict[str, Any]) -> str:
    """Return the summary in one line."""
    text = (
        f"DPC (mode {summary['mode']}): {summary['corrected']} of {summary['examples']} answers corrected, "
        f"{summary['fixed']} fixed, {summary['broken']} broken; accuracy {summary['accuracy_before']:.3f} "
        f"before and {summary['accuracy_after']:.3f} after (McNemar p = {summary['mcnemar_p']:.2g})"
    )
    if summary["auroc"] is not None:
        text += f"; AUROC of {RATIO} for incorrect answers {summary['auroc']:.3f}"
    if summary["too_short"]:
        text += f"; {summary['too_short']} rationales of fewer than 2 tokens were not measured"
    return text


def sections(corrections: Sequence[Correction]) -> list[str]:
    """Return Markdown sections of fixed, broken and otherwise changed examples, before and after."""
    triggered = [correction for correction in corrections if correction.triggered]
    kinds = {
        "fixed": [row for row in triggered if row.after.correct and not row.before.correct],
        "broken": [row for row in triggered if row.before.correct and not row.after.correct],
        "the same grade": [row for row in triggered if row.after.correct == row.before.correct],
    }
    parts = [
        f"{len(triggered)} of {len(corrections)} examples were triggered. Token: number of the virtual token "
        f"that was corrupted. {RATIO}.\n"
    ]
    for kind, examples in kinds.items():
        for example in examples[: SHOWN // 2]:
            about = f"{example.id}, reference {example.before.reference!r}"
            before, after = (
                code_block([f"predicted {record.prediction!r}", "", record.generation])
                for record in (example.before, example.after)
            )
            parts.append(
                f"**{kind}**: R = {example.ratio}, token {example.token}\n\n"
                f"{code_block([about, '', example.before.question])}\nbefore:\n\n{before}\nafter:\n\n{after}"
            )
    return parts

"""Files of Dynamic Prompt Corruption (DPC): one line per example, and the threshold of a checkpoint."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from promptstage.lightning_modules.decoding.dpc import Correction
from promptstage.lightning_modules.functional.threshold import Point, best_threshold, threshold_curve
from promptstage.utilities.checks import check_between
from promptstage.utilities.errors import UserError, shown
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.reading import read_typed, validated

FILE = "calibration.json"  # its name when it is not beside the checkpoint
RATIO = "R (share of the rationale's second half with more flow from the prompt than the first half)"
# Settings of calibrations by earlier versions, whose files lack them.
EARLIER_SETTINGS = {"accumulate_over": "question_and_rationale", "decoder": {"name": "Greedy"}}


def correction_line(correction: Correction) -> str:
    """Return a line of ``dpc.jsonl``: JSON with text, prediction, grade and length of both generations."""
    shown = ("generation", "prediction", "correct", "reason", "new_tokens")
    sides = {
        name: {key: getattr(record, key) for key in shown}
        for name, record in (("before", correction.before), ("after", correction.after))
    }
    own = {key: value for key, value in correction._asdict().items() if key not in sides}
    own["seconds"] = round(correction.seconds, 4)
    more = {"question": correction.before.question, "reference": correction.before.reference}
    return dump_json({"id": correction.id} | more | own | sides)


def parse_correction(line: Mapping[str, Any], record: Mapping[str, Any], path: Path) -> Correction:
    """Return the correction of a line of ``dpc.jsonl``.

    Args:
        record: the final record, a line of ``results.jsonl``.
        path: file of the line, for messages.

    Raises:
        UserError: if a field is missing or has another type.
    """
    where = f"correction {line['id']} in {path.parent}"
    sides = {}
    for name in ("before", "after"):
        own = line.get(name)
        if not isinstance(own, Mapping):
            raise UserError(f"{where}: field '{name}' must be an object")
        sides[name] = dict(record) | dict(own)
    own = {name: value for name, value in line.items() if name in Correction._fields}
    return validated(Correction, own | sides, where)


@dataclass(frozen=True)
class Calibration:
    """Calibrated threshold, with the conditions that it is valid for.

    Attributes:
        threshold: value of R above which an example is triggered.
        n: number of examples of the split.
        correct_before, correct_after: number of correct answers without correction and with this threshold.
        triggered: number of examples that the threshold triggers.
        settings: settings of the corruption.
        checkpoint: SHA-256 of the checkpoint's file.
        curve: number of triggered examples and of correct answers for each threshold.
        precision, dtype: of the trainer and of the backbone; None in files of earlier versions.
    """

    threshold: float
    dataset: str
    split: str
    n: int
    correct_before: int
    correct_after: int
    triggered: int
    settings: dict[str, Any]
    checkpoint: str
    curve: list[dict[str, float]]
    precision: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_between({"threshold": self.threshold}, 0, 1)
        counts = ("correct_before", "correct_after", "triggered")
        check_between({name: getattr(self, name) for name in counts}, 0, self.n)


class CalibrationConditions(NamedTuple):
    """Conditions besides the checkpoint that a threshold is valid for.

    Attributes:
        dataset, settings, precision, dtype: as in :class:`Calibration`.
    """

    dataset: str
    settings: dict[str, Any]
    precision: str
    dtype: str


def calibrate(
    corrections: Sequence[Correction],
    split: str,
    conditions: CalibrationConditions,
    checkpoint: str | os.PathLike[str],
) -> Calibration:
    """Select the threshold that maximizes accuracy, from examples that were all corrected."""
    ratios = [float("nan") if example.ratio is None else example.ratio for example in corrections]
    before = [example.before.correct for example in corrections]
    curve = threshold_curve(ratios, before, [example.after.correct for example in corrections])
    best: Point = best_threshold(curve)
    return Calibration(
        threshold=best.threshold,
        dataset=conditions.dataset,
        split=split,
        n=len(corrections),
        correct_before=sum(before),
        correct_after=best.correct,
        triggered=best.triggered,
        settings=_plain(conditions.settings),
        checkpoint=digest(checkpoint),
        curve=[point._asdict() for point in curve],
        precision=conditions.precision,
        dtype=conditions.dtype,
    )


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration as JSON."""
    if path.exists():
        rank_zero_info(f"note: {path} is replaced")
    write_text(path, dump_json(asdict(calibration), indent=2) + "\n")


def calibration_file(checkpoint: str | os.PathLike[str] | None) -> Path:
    """Return the file of a checkpoint's threshold: ``best.dpc.json`` for ``best.ckpt``.

    Raises:
        UserError: without a checkpoint.
    """
    if checkpoint is None:
        raise UserError("DPC needs a checkpoint with a calibrated threshold, or a threshold: --ckpt_path RUN")
    return Path(checkpoint).with_suffix(".dpc.json")


def choose_calibration_file(checkpoint: str | os.PathLike[str] | None, folder: Path) -> Path:
    """Return the file that ``calibrate`` saves the threshold to.

    Args:
        folder: of the results. The threshold is saved beside the checkpoint; in ``folder`` if ``--run_dir``
            names another run, or the checkpoint's folder is not writable.
    """
    beside = calibration_file(checkpoint)
    parent = Path(os.path.realpath(beside.parent))
    run = parent.parent if parent.name == "checkpoints" else parent
    own = Path(os.path.realpath(folder)).parent == run
    return beside if own and os.access(parent, os.W_OK) else folder / FILE


def read_calibration(
    path: Path, checkpoint: str | os.PathLike[str] | None, conditions: CalibrationConditions
) -> Calibration:
    """Read the threshold calibrated for a checkpoint.

    Args:
        path: file or folder written by ``calibrate``.

    Raises:
        UserError: if there is none, or it was calibrated under other conditions.
    """
    path = path / FILE if path.is_dir() else path
    number = "give a number: --trainer.callbacks.threshold 0.5"
    again = (
        f"run 'promptstage calibrate --ckpt_path {checkpoint} --trainer.callbacks DPC' with "
        f"the same options, or {number}"
    )
    if checkpoint is None:
        raise UserError(
            f"DPC: the threshold in {path} belongs to a checkpoint: give --ckpt_path, or {number}"
        )
    if not path.exists() and path != calibration_file(checkpoint):
        raise UserError(f"threshold file {path} does not exist: {again}")
    if not path.exists():
        raise UserError(f"checkpoint {checkpoint} has no calibrated threshold ({path}): {again}")
    calibration = read_typed(Calibration, path, "calibration")
    if calibration.checkpoint != digest(checkpoint):
        raise UserError(f"{path} was calibrated for a different version of {checkpoint}: {again}")
    if calibration.dataset != conditions.dataset:
        raise UserError(
            f"data set must be {calibration.dataset} as in {path}, got {conditions.dataset}: {number}"
        )
    for name, value in _plain(conditions.settings).items():
        calibrated = calibration.settings.get(name, EARLIER_SETTINGS.get(name))
        if calibrated != value:
            raise UserError(f"{name} must be {shown(calibrated)} as in {path}, got {shown(value)}: {again}")
    for name, stored, current in (
        ("--trainer.precision", calibration.precision, conditions.precision),
        ("--backbone.dtype", calibration.dtype, conditions.dtype),
    ):
        if stored is not None and stored != current:
            raise UserError(f"{name} must be {stored} as in {path}, got {current}: {again}")
    if calibration.precision is None:
        rank_zero_info(f"note: {path} does not record the precision that it was calibrated at")
    return calibration


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings to the values that JSON restores."""
    return json.loads(json.dumps(dict(settings)))

"""What DPC keeps: a line an example, and the calibrated threshold beside the checkpoint it belongs to."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.evaluation import Record
from lightning_modules.functional.threshold import Point, best_threshold, threshold_curve
from utilities.errors import UserError
from utilities.files import write_text


class Correction(NamedTuple):
    """One example: a line of ``dpc.jsonl``.

    Attributes:
        before, after: as first generated and as counted; the same where nothing was corrected.
        ratio: R, share of the rationale's second half that is affected; None for fewer than 2 tokens.
        beta: what a token's flow from the prompt had to exceed for that.
        threshold: of R; None where it decides nothing.
        triggered: whether it was generated again.
        seconds: of measuring and correcting it.
        token: j, the virtual token taken out, among all stages'; stage: whose it is; layer: where most flow
            accumulated.
    """

    id: str
    before: Record
    after: Record
    ratio: float | None
    beta: float | None
    threshold: float | None
    triggered: bool
    seconds: float
    token: int | None = None
    stage: int | None = None
    layer: int | None = None

    def line(self) -> str:
        """JSON; of both generations text, prediction, grade and length."""
        shown = ("generation", "prediction", "correct", "reason", "new_tokens")
        sides = {
            name: {key: getattr(record, key) for key in shown}
            for name, record in (("before", self.before), ("after", self.after))
        }
        own = {key: value for key, value in self._asdict().items() if key not in sides}
        own["seconds"] = round(self.seconds, 4)
        more = {"question": self.before.question, "reference": self.before.reference}
        return json.dumps({"id": self.id} | more | own | sides, ensure_ascii=False)


@dataclass(frozen=True)
class Calibration:
    """A threshold, and what it was found with.

    Attributes:
        threshold: correct when R exceeds it.
        n: examples of the split.
        correct_before, correct_after: of these, without correction and with this threshold.
        triggered: how many it corrects.
        settings: of the corruption.
        checkpoint: SHA-256 of the checkpoint's file.
        curve: what each threshold would do.
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


def calibrate(
    found: Sequence[Correction],
    dataset: str,
    split: str,
    settings: Mapping[str, Any],
    checkpoint: str | os.PathLike[str] | None,
) -> Calibration:
    """The threshold of examples that were all corrected; written beside the checkpoint."""
    ratios = [float("nan") if one.ratio is None else one.ratio for one in found]
    before = [one.before.correct for one in found]
    curve = threshold_curve(ratios, before, [one.after.correct for one in found])
    best: Point = best_threshold(curve)
    assert checkpoint is not None
    calibration = Calibration(
        threshold=best.threshold,
        dataset=dataset,
        split=split,
        n=len(found),
        correct_before=sum(before),
        correct_after=best.correct,
        triggered=best.triggered,
        settings=_plain(settings),
        checkpoint=digest(checkpoint),
        curve=[point._asdict() for point in curve],
    )
    path = calibration_file(checkpoint)
    if path.exists():
        rank_zero_info(f"note: {path} is replaced")
    write_text(path, calibration_text(calibration))
    return calibration


def calibration_text(calibration: Calibration) -> str:
    """The file's content."""
    return json.dumps(asdict(calibration), indent=2, ensure_ascii=False) + "\n"


def calibration_file(checkpoint: str | os.PathLike[str] | None) -> Path:
    """``best.ckpt`` → ``best.dpc.json``.

    Raises:
        UserError: without a checkpoint.
    """
    if checkpoint is None:
        raise UserError("DPC needs a checkpoint with a calibrated threshold, or a threshold: --ckpt_path RUN")
    return Path(checkpoint).with_suffix(".dpc.json")


def read_calibration(
    path: Path, checkpoint: str | os.PathLike[str] | None, dataset: str, settings: Mapping[str, Any]
) -> Calibration:
    """The threshold calibrated for a checkpoint.

    Raises:
        UserError: when there is none, or it was found for something else.
    """
    number = "give a number: --trainer.callbacks.threshold 0.5"
    assert checkpoint is not None
    again = (
        f"run 'python cli.py calibrate --ckpt_path {checkpoint} --trainer.callbacks callbacks.dpc.DPC' with "
        f"the same options, or {number}"
    )
    if not path.is_file():
        raise UserError(f"checkpoint {checkpoint} has no calibrated threshold ({path.name}): {again}")
    try:
        found = Calibration(**json.loads(path.read_text(encoding="utf-8")))
        if (
            not 0 <= float(found.threshold) <= 1
            or type(found.n) is not int
            or type(found.settings) is not dict
        ):
            raise ValueError("a value of another kind")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a calibration: {again}") from error
    if found.checkpoint != digest(checkpoint):
        raise UserError(f"{path} was calibrated for another state of {checkpoint}: {again}")
    if found.dataset != dataset:
        raise UserError(f"{path} was calibrated on {found.dataset}, not on {dataset}: {number}")
    for name, value in _plain(settings).items():
        if found.settings.get(name) != value:
            raise UserError(
                f"{path} was calibrated with {name} {found.settings.get(name)}, not {value}: {again}"
            )
    return found


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(dict(settings)))

"""Warnings about choices that the examples do not support; the file that a threshold is saved to."""

from pathlib import Path

import pytest

from promptstage.callbacks.dpc import files as dpc_files
from promptstage.callbacks.dpc.files import RATIO, Calibration, Correction, choose_calibration_file
from promptstage.callbacks.dpc.report import calibration_warnings
from promptstage.callbacks.figures import plain
from promptstage.datamodules.repeats import warn_repeated
from promptstage.lightning_modules.decoding.records import Record

RECORD = Record("x/0", "gsm8k", "1+1", None, "2", "2", "2", True, "rule", 1, 2)


def calibration(triggered: int) -> Calibration:
    return Calibration(0.5, "gsm8k", "validation", 2, 1, 1, triggered, {}, "", [], "32-true", "float32")


def corrections(*ratios: float | None) -> list[Correction]:
    return [Correction("x/0", RECORD, RECORD, ratio, 0.1, None, True, 0.1) for ratio in ratios]


@pytest.mark.parametrize(
    ("triggered", "ratios", "expected"),
    [
        (1, (0.2, 0.3), []),
        (
            1,
            (0.2, 0.2),
            [f"{RATIO} is the same, 0.2, in all 2 examples: no threshold separates them"],
        ),
        (1, (None, None), [f"{RATIO} is undefined in all 2 examples: no threshold separates them"]),
        (
            0,
            (0.2, None, 0.4),
            ["no threshold increases the number of correct answers: test will correct none"],
        ),
    ],
)
def test_unsupported_thresholds_are_reported(
    triggered: int, ratios: tuple[float | None, ...], expected: list[str]
) -> None:
    warnings = calibration_warnings(calibration(triggered), corrections(*ratios))
    assert warnings == [f"warning: DPC: {text}" for text in expected]


def test_repeated_questions_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        warn_repeated("the partition", ["a", "b"])
        assert not caplog.messages
        warn_repeated("the partition", ["a"] * 96)
    # Lightning's logger may reach pytest's handler twice, after other tests in the same process.
    assert set(caplog.messages) == {"warning: the partition rests on 1 distinct questions among 96 examples"}


def test_a_threshold_is_saved_beside_its_checkpoint_or_with_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    checkpoint = run / "checkpoints" / "best.ckpt"
    beside = run / "checkpoints" / "best.dpc.json"
    elsewhere = tmp_path / "other" / "calibrate"
    assert choose_calibration_file(checkpoint, run / "calibrate") == beside
    assert choose_calibration_file(checkpoint, elsewhere) == elsewhere / "calibration.json"
    monkeypatch.setattr(dpc_files.os, "access", lambda path, mode: False)
    assert choose_calibration_file(checkpoint, run / "calibrate") == run / "calibrate" / "calibration.json"


def test_nothing_of_a_path_is_mathematics_in_a_figure() -> None:
    assert plain("/a/$\\frac$\n") == "/a/\\$\\frac\\$\\n"

"""Choices that rest on nothing say so; a threshold is saved where it can be."""

from pathlib import Path

import pytest

from callbacks import dpc_files
from callbacks.dpc_files import Calibration, Correction, place_of_calibration
from callbacks.dpc_report import silences
from callbacks.examples import tell_repeated
from callbacks.figures import plain
from lightning_modules.evaluation import Record

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
            ["R is the same, 0.2, in all 2 examples: no threshold tells them apart"],
        ),
        (1, (None, None), ["R is undefined in all 2 examples: no threshold tells them apart"]),
        (
            0,
            (0.2, None, 0.4),
            ["no threshold makes more answers correct: test will correct none"],
        ),
    ],
)
def test_a_threshold_that_rests_on_nothing(
    triggered: int, ratios: tuple[float | None, ...], expected: list[str]
) -> None:
    said = silences(calibration(triggered), corrections(*ratios))
    assert said == [f"warning: DPC: {text}" for text in expected]


def test_repeated_questions_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        tell_repeated("the partition", ["a", "b"])
        assert not caplog.messages
        tell_repeated("the partition", ["a"] * 96)
    assert caplog.messages == ["warning: the partition rests on 1 distinct questions: 96 were taken"]


def test_where_a_threshold_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    checkpoint = run / "checkpoints" / "best.ckpt"
    beside = run / "checkpoints" / "best.dpc.json"
    elsewhere = tmp_path / "other" / "calibrate"
    assert place_of_calibration(checkpoint, run / "calibrate") == beside
    assert place_of_calibration(checkpoint, elsewhere) == elsewhere / "calibration.json"
    monkeypatch.setattr(dpc_files.os, "access", lambda path, mode: False)
    assert place_of_calibration(checkpoint, run / "calibrate") == run / "calibrate" / "calibration.json"


def test_nothing_of_a_path_is_mathematics_in_a_figure() -> None:
    assert plain("/a/$\\frac$\n") == "/a/\\$\\frac\\$\\n"

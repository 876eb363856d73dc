"""The scripts of ``examples/`` run as a user runs them, with fewer steps."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEPS", "4")
    monkeypatch.setenv("QUESTIONS", "6")
    runpy.run_path(str(script), run_name="__main__")
    assert list((tmp_path / "runs").rglob("results.jsonl"))


def test_there_are_four() -> None:
    assert {path.stem for path in EXAMPLES} == {"train_a_prompt", "stages", "saliency", "dpc"}

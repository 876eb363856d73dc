"""Comparisons of the saliency of several runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from promptstage.callbacks.saliency.files import Saved
from promptstage.command_line.main import main
from promptstage.comparisons.saliency import chosen_examples
from promptstage.utilities.errors import UserError
from tests.unit.methods.conftest import EXAMPLES


def test_compared_from_files(saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved.write(tmp_path / name, "saliency")
    runs = [f"first={tmp_path / 'a'}", f"second={tmp_path / 'b'}"]
    assert main(["compare-saliency", *runs, "--out", str(tmp_path / "out"), "--examples", "all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "examples: all examples of each run: 40 of first, 40 of second"
    assert [line.split("|")[1].strip() for line in lines[3:5]] == ["first", "second"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "curves.png",
        "differences.png",
        "gaps.png",
    }
    assert main(["compare-saliency", "nothing", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: a run must be NAME=FOLDER, got 'nothing'\n"


def test_compared_examples_are_correct_in_all_runs(
    saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DHAM's Figure 1; shared ones where a run has no grades, and all of each on demand."""
    graded = np.where(np.arange(EXAMPLES) % 2 == 0, 1.0, 0.0)
    fewer = replace(saved, correct=np.ones(EXAMPLES)).select([12, 3, 8, 5])
    runs = {"first": replace(saved, correct=graded), "second": fewer}
    chosen, shared, note = chosen_examples(runs, "correct")
    assert [run.ids for run in chosen.values()] == [["made/8", "made/12"]] * 2
    assert note == "the 2 of 4 shared examples that are correct in all runs"
    assert [run.ids for run in shared.values()] == [["made/3", "made/5", "made/8", "made/12"]] * 2
    rows = [8, 12]
    for name, values in chosen["second"].arrays.items():
        assert np.array_equal(values, saved.arrays[name][rows], equal_nan=True)
    assert chosen_examples(runs, "shared")[2] == "the 4 examples that all runs share"
    ungraded = {**runs, "second": replace(fewer, correct=np.full(4, np.nan))}
    chosen, _, note = chosen_examples(ungraded, "correct")
    assert len(chosen["first"].ids) == 4
    assert note == "the 4 examples that all runs share, correct or not: no grades in second"
    wrong = {**runs, "second": replace(fewer, correct=np.zeros(4))}
    with pytest.raises(UserError, match="none of the 4 shared examples is correct in all runs"):
        chosen_examples(wrong, "correct")
    with pytest.raises(UserError, match="the runs have no common example"):
        chosen_examples({"a": saved.select([1]), "b": saved.select([2])}, "correct")
    saved.write(tmp_path, "saliency")
    flags = [f"a={tmp_path}", "--out", str(tmp_path / "out"), "--examples"]
    assert main(["compare-saliency", *flags, "right"]) == 2
    assert "--examples 'right' is unknown" in capsys.readouterr().err
    assert main(["compare-saliency", *flags, "correct"]) == 0
    assert "examples: the 9 of 40 shared examples that are correct in all runs" in capsys.readouterr().out

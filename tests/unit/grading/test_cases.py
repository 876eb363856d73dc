"""The labelled cases in ``cases/``: one file a data set, each case with what makes it hard.

``prediction`` is there, as null, where careful readers find no answer at all.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from promptstage.datamodules.grading import grade

FILES = sorted((Path(__file__).parent / "cases").glob("*.jsonl"))
RUN_ON = (
    "\n\nQuestion: A box holds 4 red and 5 blue pens. How many pens are there?\nAnswer: 4 + 5 = 9\n#### 9"
)


def cases(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_there_are_many_and_both_verdicts() -> None:
    everything = [case for path in FILES for case in cases(path)]
    assert len(FILES) == 10
    assert len(everything) >= 1000
    assert 0.4 < sum(case["correct"] for case in everything) / len(everything) < 0.6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agrees_with_careful_readers(path: Path) -> None:
    wrong = []
    for case in cases(path):
        given = grade(path.stem, case["generation"], case["reference"], case.get("options"))
        nothing = "prediction" in case and given.prediction is not None
        if given.correct != case["correct"] or nothing:
            wrong.append((case["trap"], case["generation"][-200:], case["reference"], given))
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_continued_question_changes_nothing(path: Path) -> None:
    for case in cases(path):
        text, rest = case["generation"], (case["reference"], case.get("options"))
        alone, run_on = grade(path.stem, text, *rest), grade(path.stem, text + RUN_ON, *rest)
        assert run_on == alone, (case["trap"], text[-200:])

"""Tests of the grader on the labeled cases in ``cases/``: one file per data set or kind of answer.

A case's ``trap`` describes its difficulty. Its ``prediction`` is present, as null, if the text has no answer.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from promptstage.grading import grade

FILES = sorted((Path(__file__).parent / "cases").glob("*.jsonl"))
NEXT_QUESTION = (
    "\n\nQuestion: A box holds 4 red and 5 blue pens. How many pens are there?\nAnswer: 4 + 5 = 9\n#### 9"
)


def cases(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_cases_are_numerous_and_balanced() -> None:
    all_cases = [case for path in FILES for case in cases(path)]
    assert len(FILES) == 12
    assert len(all_cases) >= 1000
    assert 0.4 < sum(case["correct"] for case in all_cases) / len(all_cases) < 0.6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grades_agree_with_the_labels(path: Path) -> None:
    wrong = []
    for case in cases(path):
        result = grade(path.stem, case["generation"], case["reference"], case.get("options"))
        unexpected = "prediction" in case and result.prediction is not None
        if result.correct != case["correct"] or unexpected:
            wrong.append((case["trap"], case["generation"][-200:], case["reference"], result))
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_generated_next_question_does_not_change_the_grade(path: Path) -> None:
    for case in cases(path):
        text, rest = case["generation"], (case["reference"], case.get("options"))
        alone, continued = grade(path.stem, text, *rest), grade(path.stem, text + NEXT_QUESTION, *rest)
        assert continued == alone, (case["trap"], text[-200:])

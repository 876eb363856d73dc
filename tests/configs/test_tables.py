"""Rows of the tables of ``configs/``, run in small; ``python -m tests.tables`` runs them all.

The rows here are few that together have every table file, backbone family, data set, method, correction, kind
of partition and of start: a greedy cover, each time the row with most that is still left.
"""

from functools import cache
from pathlib import Path

import pytest
import yaml

from promptstage.comparisons.plan import read
from tests.configs.files import COMPARISONS, ROOT, name
from tests.tables import FAMILIES, Row, Tables, all_rows, covering, run_all


@cache
def rows() -> list[Row]:
    return all_rows()


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_selected_rows_cover_all_features() -> None:
    chosen = covering(rows())
    features = set().union(*(row.features for row in chosen))
    assert {row.file for row in chosen} == set(COMPARISONS)
    assert features == set().union(*(row.features for row in rows()))
    assert set(FAMILIES) | {"embedded"} <= features
    assert {"GSM8K", "MATH", "AQuA", "ARC", "ProntoQA", "WorldTree", "Generated"} <= features
    assert {"Pretrained", "PromptTuning", "PrefixTuning", "LoRA", "DHAM", "calibrate"} <= features
    assert {(row.file, row.name) for row in rows()} == {
        (path, row) for path in COMPARISONS for row in read(path).rows
    }


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["dham", "others"])
def test_selected_rows_run(folder: str, tmp_path: Path) -> None:
    """Models have 9 layers; of Figure 3, which needs more, the row without a prompt runs."""
    chosen = [row for row in covering(rows()) if (row.file.parent.name == "dham") == (folder == "dham")]
    problems = {
        f"{name(row.file)}: {row.name}": problem
        for row, problem, _ in run_all(chosen, tmp_path / "tables", layers=9)
    }
    assert len(problems) == len(chosen)
    assert set(problems.values()) == {""}


def test_a_row_that_fails_is_reported(tmp_path: Path) -> None:
    values = {
        "title": "wrong",
        "files": ["configs/backbone/llama3_8b.yaml", "configs/data/gsm8k.yaml"],
        "rows": {"deep": ["--model=PromptTuning", "--model.insert_at=9"]},
    }
    file = ROOT / "configs" / "wrong.yaml"  # a name below configs/; nothing is written there
    tables = Tables(tmp_path / "tables", layers=9)
    given = tmp_path / "wrong.yaml"
    given.write_text(yaml.safe_dump(values), encoding="utf-8")
    tables.comparisons[file] = tables.smaller(read(given))
    problem = tables.run(Row(file, "deep", frozenset()))
    assert "insert_at names layer 9, but backbone" in problem

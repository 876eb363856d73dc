"""References of a comparison's rows to their seed and to the runs of other rows."""

from pathlib import Path

import pytest
import yaml

from promptstage.comparisons import references
from promptstage.comparisons.commands import Commands
from promptstage.comparisons.plan import Run, read
from promptstage.comparisons.runs import Runs
from promptstage.comparisons.workers import claims_in
from promptstage.utilities.errors import UserError

TUNING = ["--model=FullFineTuning", "--backbone.init_seed={seed}"]
PREFIX = ["--model=PrefixTuning", "--backbone.name={run:tuned}"]


def written(folder: Path, **keys: object) -> Path:
    file = folder / "table.yaml"
    file.write_text(yaml.safe_dump({"title": "two", **keys}, sort_keys=False), encoding="utf-8")
    return file


def test_references_are_resolved_with_the_same_seed() -> None:
    flags = ["--backbone.init_seed={seed}", "--backbone.name={run:my row}", "--data.template={question}"]
    assert references.rows_of(flags) == ["my row"]
    resolved = references.resolve(flags, 3, lambda row: Path("runs", f"{row}-3"))
    assert resolved == [
        "--backbone.init_seed=3",
        "--backbone.name=runs/my row-3",
        "--data.template={question}",
    ]


def test_rows_may_refer_to_others(tmp_path: Path) -> None:
    rows = {"prefix": PREFIX, "tuned": TUNING}
    assert list(read(written(tmp_path, seeds=[0], rows=rows)).rows) == ["prefix", "tuned"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rows": {"tuned": TUNING}}, "row 'tuned': {seed} needs seeds"),
        ({"seeds": [0], "rows": {"prefix": PREFIX}}, "row 'prefix': row of {run:} 'tuned' is unknown"),
        (
            {"rows": {"a": ["--backbone.name={run:b}"], "b": ["--backbone.name={run:a}"]}},
            "row 'a' refers to row 'b', which needs it",
        ),
        (
            {"seeds": [0], "rows": {"prefix": PREFIX, "tuned": ["--model=Pretrained"]}},
            "row 'prefix' refers to row 'tuned', which trains nothing",
        ),
        ({"rows": {"a": ["--backbone.name={run:a}"]}}, "row 'a' refers to row 'a', which needs it"),
        (
            {"rows": {"a": ["--model=Pretrained"]}, "options": ["--backbone.name={run:a}"]},
            "options of all rows cannot refer to a row, got {run:a}",
        ),
        (
            {"rows": {"a": ["--model=DHAM"]}, "test_options": ["--data.source={run:a}"]},
            "flags of tests cannot refer to a row, got {run:a}",
        ),
        (
            {"rows": {"a": ["--model=DHAM"], "b": {"of": "a", "test": ["--data.seed={seed}"]}}},
            "{seed} in flags of tests needs seeds, such as seeds: [0, 1, 2]",
        ),
    ],
)
def test_invalid_references_are_rejected(keys: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read(written(tmp_path, **keys))
    assert message in str(error.value)


def test_the_seed_is_known_to_tests(tmp_path: Path) -> None:
    rows = {"tuned": TUNING, "again": {"of": "tuned", "test": ["--data.seed={seed}"]}}
    comparison = read(written(tmp_path, seeds=[3], test_options=["--seed_everything={seed}"], rows=rows))
    with claims_in(tmp_path, Commands()) as claims:
        runs = Runs(comparison, tmp_path, [], Commands(), claims)
        assert runs.test_flags(Run("again", 3)) == ["--seed_everything=3", "--data.seed=3"]

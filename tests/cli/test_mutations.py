"""A few seeded mutations of a run's files; ``python -m tests.mutations`` tries more."""

from pathlib import Path

from tests.mutations import attempts, make_base

COUNT = 30


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    outcomes = [
        f"{verdict}: {mutation}: {line}"
        for mutation, verdict, line in attempts(base, tmp_path, seed=5, count=COUNT)
    ]
    assert len(outcomes) == COUNT
    assert [line for line in outcomes if not line.startswith(("read:", "stopped:", "refused:"))] == []
    assert any(line.startswith("read:") for line in outcomes)
    assert any(line.startswith("refused:") for line in outcomes)

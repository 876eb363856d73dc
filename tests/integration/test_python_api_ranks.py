"""Every rank of a job from Python reads the results of the same run."""

import json
from pathlib import Path

import pytest

from tests.forked import run
from tests.probes import python_api


@pytest.mark.slow
def test_all_ranks_return_the_same_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)  # another run: this one is numbered, by rank 0 alone
    done = run(folder, ranks=2, program=python_api.main)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert (first["run"], first["test"], len(first["records"])) == ("run-2", "test", 5)

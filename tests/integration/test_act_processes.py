"""The heads that ACT finds, and the answers with them, are the same on 1, 2 and 3 processes."""

import json
from pathlib import Path

import pytest

from tests.forked import run_all


@pytest.mark.slow
def test_same_heads(tmp_path: Path) -> None:
    """With the embedded backbone, whose answers calibration can spoil. Of 3 processes one has no question."""
    found = []
    for processes in (1, 2, 3):
        run = tmp_path / f"on{processes}"
        command = ["test", "--model=Pretrained", f"--run_dir={run}"]
        command += ["--data=Generated", "--data.task=letter_reversal", "--data.train_size=32"]
        command += ["--data.test_size=9", "--data.eval_batch_size=4", "--data.max_new_tokens=12"]
        command += ["--trainer.callbacks=callbacks.act.ACT", "--trainer.callbacks.examples=8"]
        assert run_all(processes, [[*command, "--trainer.accelerator=cpu"]]).count("ACT selects") == 1
        found.append([(run / "test" / name).read_bytes() for name in ("act.json", "results.jsonl")])
    assert found[0] == found[1] == found[2]
    values = json.loads(found[0][0])
    assert len({count for counts in values["counts"].values() for count in counts}) > 1

"""Stages, and their file to the last byte, are the same on 1, 2 and 3 processes, whole or sharded."""

from pathlib import Path

import pytest

from tests.forked import run_all
from tests.tiny_folder import call, save_tiny_backbone

WAYS = [(1, "none"), (2, "none"), (2, "node"), (3, "none"), (3, "all")]
EXAMPLES = (40, 8)  # of 8, in one batch, two of three processes have none


@pytest.mark.slow
def test_same_partition(tmp_path: Path) -> None:
    backbone = save_tiny_backbone(tmp_path / "backbone")

    def search(examples: int, processes: int, shard: str) -> tuple[Path, list[object]]:
        run = tmp_path / f"{examples}-on-{processes}-{shard}"
        command = ["partition", f"--backbone.name={backbone}", "--data=Generated", "--data.task=addition"]
        command += ["--data.train_size=64", "--data.eval_batch_size=8", "--data.validation_size=4"]
        command += [f"--model.search.examples={examples}", "--model.search.max_stages=3"]
        command += ["--trainer.accelerator=cpu", f"--backbone.shard={shard}", f"--run_dir={run}"]
        return run, [*command]

    for processes in (1, 2, 3):
        commands = [search(n, *way)[1] for n in EXAMPLES for way in WAYS if way[0] == processes]
        if processes == 1:
            assert all(call(*command, "--trainer.devices=1").code == 0 for command in commands)
            continue
        said = run_all(processes, commands)
        assert said.count("partition (cka, contiguous): layers") == len(commands)
        assert said.count(f"decoder blocks sharded over {processes} ranks") == len(commands) / 2
    for examples in EXAMPLES:
        runs = [search(examples, *way)[0] for way in WAYS]
        assert len({(run / "partition.json").read_bytes() for run in runs}) == 1
        assert all(len(list(run.glob("*.png"))) == 4 for run in runs)

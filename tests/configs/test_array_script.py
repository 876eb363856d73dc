"""SLURM script of ``promptstage compare --array``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.configs.comparisons import compare, error_of

SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@"
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values = {
        "title": "a study",
        "seeds": [0, 1],
        "options": ["--data=Generated"],
        "rows": {
            "PT": ["--model=PromptTuning"],
            "PT + DPC": {"of": "PT", "test": ["--trainer.callbacks=DPC"]},
            "wide": ["--model=LoRA", "--trainer.devices=4"],
        },
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


def test_the_script_runs_the_command_in_every_task(
    study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--run-dir", "runs/s", "--array", "3", "--rows", "PT + DPC,wide", "--against", "PT"]
    assert compare([study, *flags, "--", "--data.seed=1"]) == 0
    script = capfd.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert "# a study: 6 rows, shared by the 3 tasks of a job array." in script
    lines = script.splitlines()
    assert {"#SBATCH --array=1-3", "#SBATCH --gpus=4", "#SBATCH --ntasks=1"} < set(lines)
    assert f"#SBATCH --chdir={tmp_path}" in lines
    (tmp_path / "srun").write_text(SRUN, encoding="utf-8")
    (tmp_path / "srun").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[2:6] == ["env", "-u", "SLURM_NTASKS", sys.executable]
    given = ["--run-dir=runs/s", "--resume", "--against=PT", "--rows=PT + DPC,wide", "--", "--data.seed=1"]
    assert words[7:] == ["compare", str(study), *given]


@pytest.mark.parametrize(("tasks", "shown"), [("0", "0"), ("5000", "5000")])
def test_the_number_of_tasks_is_checked(
    tasks: str, shown: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, study, "--array", tasks)
    assert line == f"error: --array must be between 1 and 1000, got {shown}"


def test_a_row_on_several_machines_is_rejected(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, study, "--array", "2", "--", "--trainer.num_nodes=2")
    assert line == "error: --array: a row with trainer.num_nodes > 1 cannot share a job array"

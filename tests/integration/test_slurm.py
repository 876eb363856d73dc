"""The SLURM script, with stand-ins for ``srun`` and ``scontrol``: a job is requeued and goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.launchers import ROOT

FLAGS = ["--data=Generated"]
FLAGS += ["--data.task=addition", "--data.validation_size=2", "--data.batch_size=2", "--data.test_size=3"]
FLAGS += ["--model=PromptTuning", "--model.num_virtual_tokens=4", "--model.val_generations=0"]


@pytest.mark.slow
def test_requeued_job_goes_on(tmp_path: Path) -> None:
    stand_ins = {"srun": 'echo $$ > "$STEP"; shift; exec "$@"', "scontrol": 'echo "$@" >> "$ASKED"'}
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "cli.py").symlink_to(ROOT / "cli.py")
    asked, running, run = tmp_path / "asked.txt", tmp_path / "step.txt", tmp_path / "runs" / "slurm-7"
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "promptstage", "SLURM_NNODES": "1", "SLURM_NTASKS": "1"}
    job |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}  # a task that has the number of its array
    job |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable, "ASKED": str(asked)}
    job |= {"STEP": str(running), "TRAINER": str(ROOT / "tests" / "cluster" / "cpu_nodes.yaml")}
    command = ["bash", str(ROOT / "configs" / "launch" / "slurm.sbatch"), *FLAGS]
    last = run / "checkpoints" / "last.ckpt"

    first = subprocess.Popen(
        [*command, "--trainer.max_steps=100000", "--save_every=5"], cwd=tmp_path, env=os.environ | job
    )
    try:
        end = time.monotonic() + 120
        while not last.exists():
            assert first.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        os.kill(int(running.read_text(encoding="utf-8")), signal.SIGUSR1)
        assert first.wait(timeout=60) == 143
    finally:
        first.kill()
    assert asked.read_text(encoding="utf-8") == "requeue 7_3\n"
    step = torch.load(last, weights_only=True)["global_step"]
    again = subprocess.run(
        [*command, f"--trainer.max_steps={step + 3}"],
        cwd=tmp_path,
        env=os.environ | job,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert again.returncode == 0, again.stderr
    assert f"{step + 3} steps" in again.stderr
    assert [folder.name for folder in run.parent.iterdir()] == ["slurm-7"]
    assert len((run / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    # The next start continues an interrupted test.
    results = run / "test" / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    results.with_name("results.partial.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    results.unlink()
    resumed = subprocess.run(
        command, cwd=tmp_path, env=os.environ | job, capture_output=True, text=True, timeout=120
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "2 of 3 records are restored" in resumed.stderr
    assert len(results.read_text(encoding="utf-8").splitlines()) == 3

"""The SLURM script, with stand-ins for ``srun`` and ``scontrol``: a job is requeued and goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.many_commands import ROOT

FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data=Generated"]
FLAGS += ["--data.task=addition", "--data.validation_size=2", "--data.batch_size=2", "--model=PromptTuning"]
FLAGS += ["--model.num_virtual_tokens=4", "--model.val_generations=0"]


@pytest.mark.slow
def test_requeued_job_goes_on(tmp_path: Path) -> None:
    for name, text in {"srun": 'shift; exec "$@"', "scontrol": 'echo "$@" >> "$ASKED"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "cli.py").symlink_to(ROOT / "cli.py")
    asked, run = tmp_path / "asked.txt", tmp_path / "runs" / "slurm-7"
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "promptstage", "SLURM_NNODES": "1", "SLURM_NTASKS": "1"}
    job |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable, "ASKED": str(asked)}
    command = ["bash", str(ROOT / "configs" / "launch" / "slurm.sbatch"), *FLAGS]

    first = subprocess.Popen(
        [*command, "--trainer.max_steps=100000", "--save_every=5"], cwd=tmp_path, env=os.environ | job
    )
    try:
        end = time.monotonic() + 120
        for waited_for in (run / "checkpoints" / "last.ckpt", asked):
            while not waited_for.exists():
                assert first.poll() is None
                assert time.monotonic() < end
                time.sleep(0.2)
            if waited_for != asked:
                first.send_signal(signal.SIGUSR1)  # every command here replaces itself: it is Python's
    finally:
        first.kill()
        first.wait()
    assert asked.read_text(encoding="utf-8") == "requeue 7\n"
    (saved,) = run.glob("hpc_ckpt_*.ckpt")
    step = torch.load(saved, weights_only=True)["global_step"]
    os.utime(saved)  # the newest, though the first start went on until it was killed
    again = subprocess.run(
        [*command, f"--trainer.max_steps={step + 3}"],
        cwd=tmp_path,
        env=os.environ | job,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert again.returncode == 0, again.stderr
    assert f"{saved.name}" in again.stderr
    assert f"{step + 3} steps" in again.stderr
    assert [folder.name for folder in run.parent.iterdir()] == ["slurm-7"]

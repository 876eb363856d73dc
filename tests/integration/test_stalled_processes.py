"""A process that is stopped, or hangs, is named by another one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.many_commands import ROOT

JOB = """
import os, sys, time
sys.path.insert(0, {root!r})
from promptstage.callbacks import stalled_processes as stalled
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage import cli
stalled.AFTER, stalled.BEAT = 6.0, 0.5
step = SoftPromptModule.training_step
def hangs(self, *args):
    if self.trainer.global_step == 2 and os.environ["RANK"] == "1" and {hangs}:
        time.sleep(10**6)
    return step(self, *args)
SoftPromptModule.training_step = hangs
sys.exit(cli.main(sys.argv[1:]))
"""
FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.devices=2"]
FLAGS += ["--trainer.strategy=ddp", "--data=Generated", "--data.task=addition", "--data.validation_size=2"]
FLAGS += ["--data.batch_size=2", "--model=PromptTuning", "--model.num_virtual_tokens=4"]
FLAGS += ["--model.val_generations=0", "--trainer.max_steps=100000", "--save_every=1"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hangs", "stopped 0"])
def test_a_stalled_process_is_named(how: str, tmp_path: Path) -> None:
    job, said, run = tmp_path / "job.py", tmp_path / "said.txt", tmp_path / "run"
    job.write_text(JOB.format(root=str(ROOT), hangs=how == "hangs"), encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launcher, str(job), "fit", *FLAGS, f"--run_dir={run}"]
    with said.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + 240
        while not (run / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, said.read_text(encoding="utf-8")
            assert time.monotonic() < end
            time.sleep(0.2)
        if how != "hangs":
            time.sleep(5)  # some heartbeats, which tell that training has begun
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8")
            os.kill(int(children.split()[int(how[-1])]), signal.SIGSTOP)
        rank = 1 if how == "hangs" else int(how[-1])
        kind = "no progress" if how == "hangs" else "no heartbeat"
        expected = rf"warning: {kind} for 6 s: .*rank {rank} \(.*, pid \d+\).* training step"
        while not re.search(expected, text := said.read_text(encoding="utf-8")):
            assert time.monotonic() < end, text
            time.sleep(0.2)
        assert f"rank {1 - rank} (" not in text.splitlines()[-1]
    finally:
        # torchrun starts its processes in sessions of their own.
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.kill()
        process.wait()

"""Ranks exit soon after the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptstage import cli

ROOT = Path(__file__).parents[2]
CHILD = """
import time
from promptstage.utilities import processes
processes.GRACE = 0.5
processes.follow_parent()
print("ready", flush=True)
time.sleep({seconds})
"""
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"


@pytest.mark.parametrize(("rank", "ends"), [("1", True), ("0", False)])
def test_a_rank_exits_with_its_parent(rank: str, ends: bool) -> None:
    child = CHILD.format(seconds=60 if ends else 5)  # local rank 0 has no parent to follow
    environment = os.environ | {"LOCAL_RANK": rank}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, child],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    started = time.monotonic()
    parent.send_signal(signal.SIGKILL)
    _, said = parent.communicate(timeout=90)  # the child has the pipe's other end until it is gone
    assert time.monotonic() - started < 30
    assert said == ("error: rank 1: the process that started it has exited\n" if ends else "")


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", "x"), ("SLURM_PROCID", ""), ("RANK", "-1")])
def test_a_rank_that_is_not_a_number_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert cli.main(["fit"]) == 2
    assert capsys.readouterr().err == (
        f"error: the environment variable {name} must be an integer >= 0, got {value!r}: unset it\n"
    )

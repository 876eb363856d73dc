"""Two machines with names and addresses of their own: network namespaces on this one, joined by a cable."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.launchers import ROOT
from tests.tiny_folder import call

NODES = ("node0", "node1")
FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data=Generated"]
FLAGS += ["--data.task=addition", "--data.validation_size=3", "--data.train_size=30", "--data.test_size=5"]
FLAGS += ["--model=PromptTuning", "--model.num_virtual_tokens=4", "--model.val_generations=0"]
FLAGS += ["--trainer.max_steps=6"]


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """Names of the namespaces; within each the nodes' names are known."""
    if shutil.which("ip") is None:
        pytest.skip("needs 'ip' (Debian's iproute2)")
    spaces = [f"promptstage-{os.getpid()}-{node}" for node in NODES]
    ends = [f"ps{os.getpid() % 100000}-{number}" for number in range(2)]
    folders = [Path("/etc/netns") / space for space in spaces]
    try:
        try:
            for space in spaces:
                ip("netns", "add", space)
            ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        for number, (space, end, folder) in enumerate(zip(spaces, ends, folders, strict=True)):
            ip("link", "set", end, "netns", space)
            for device in (
                ["addr", "add", f"10.203.0.{number + 1}/24", "dev", end],
                ["link", "set", end, "up"],
            ):
                ip("-n", space, *device)
            ip("-n", space, "link", "set", "lo", "up")
            folder.mkdir(parents=True)
            (folder / "hosts").write_text("127.0.0.1 localhost\n10.203.0.1 node0\n10.203.0.2 node1\n")
        yield spaces
    finally:
        for space, folder in zip(spaces, folders, strict=True):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)


def on_both(nodes: Sequence[str], command: Sequence[str]) -> list[str]:
    """The launch script on each node, as its README section says; what each printed."""
    environment = os.environ | {"HEAD": "node0", "NODES": "2", "PROCESSES": "1", "PYTHON": sys.executable}
    environment |= {"PORT": "29517", "OMP_NUM_THREADS": "1"}
    script = str(ROOT / "configs" / "launch" / "torchrun.sh")
    jobs = []
    for space, name in zip(nodes, NODES, strict=True):
        inside = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name, script, *command]
        jobs.append(
            subprocess.Popen(
                ["ip", "netns", "exec", space, *inside],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                cwd=ROOT,
            )
        )
    try:
        said = [job.communicate(timeout=180)[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(said)
    return said


@pytest.mark.slow
def test_fit_and_test(nodes: list[str], tmp_path: Path) -> None:
    alone, run = tmp_path / "alone", tmp_path / "run"
    on_both(nodes, ["fit", *FLAGS, "--data.batch_size=3", f"--run_dir={run}"])
    said = on_both(nodes, ["test", f"--ckpt_path={run}", "--trainer.accelerator=cpu"])
    assert ["of 5 correct: accuracy" in text for text in said] == [True, False]
    assert call("fit", *FLAGS, "--data.batch_size=6", f"--run_dir={alone}").code == 0
    assert call("test", f"--ckpt_path={alone}", "--trainer.accelerator=cpu").code == 0
    one, other = (load_file(folder / "prompt.safetensors")["prompt"] for folder in (alone, run))
    assert (one - other).abs().max() < 1e-6
    results = [folder / "test" / "results.jsonl" for folder in (alone, run)]
    assert results[0].read_text(encoding="utf-8") == results[1].read_text(encoding="utf-8")

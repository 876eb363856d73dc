"""Jobs of several processes: what goes over the wire, how they start, and how they end when one dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.forked import run
from tests.launchers import ROOT, torchrun
from tests.probes import ddp_traffic, different_backbones
from tests.tiny_folder import save_tiny_backbone

COMMON = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data=Generated"]
COMMON += [
    "--data.task=addition",
    "--data.validation_size=2",
    "--data.test_size=3",
    "--data.max_new_tokens=8",
]
COMMON += ["--model.val_generations=0", "--data.batch_size=2"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
METHODS = {
    "PromptTuning": ["--model=PromptTuning", "--model.num_virtual_tokens=4"],
    "DHAM": ["--model=DHAM", "--model.partition=[0,2]", "--model.num_virtual_tokens=8"],
}


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_only_the_prompt_is_sent(method: str, tmp_path: Path) -> None:
    folder, steps = tmp_path / "run", 3
    flags = [*COMMON, *TWO, *METHODS[method], f"--trainer.max_steps={steps}", f"--run_dir={folder}"]
    done = run("fit", *flags, ranks=2, program=ddp_traffic.main)
    assert done.returncode == 0, done.stdout + done.stderr
    sent = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    prompt = sum(tensor.nbytes for tensor in load_file(folder / "prompt.safetensors").values())
    assert sent == {"at the start": prompt, "buffers": 0, "gradients": [prompt] * steps}


@pytest.mark.slow
def test_launch_script(tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = os.environ | {"PYTHON": sys.executable, "PORT": "0"}
    fit = ["fit", *COMMON, *METHODS["PromptTuning"], "--trainer.max_steps=2", f"--run_dir={run}"]
    for command in (fit, ["test", f"--ckpt_path={run}", "--trainer.accelerator=cpu"]):
        script = [str(ROOT / "configs" / "launch" / "torchrun.sh"), *command]
        done = subprocess.run(script, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len((run / "test" / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert done.stdout.count("of 3 correct: accuracy") == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ddp", "torchrun"])
def test_a_mistake_is_told_once(launcher: str, tmp_path: Path) -> None:
    # Each process finds it alone, when it reads the data.
    command = ["fit", *COMMON, *TWO, *METHODS["PromptTuning"], "--data.max_length=1"]
    command += [f"--run_dir={tmp_path / 'run'}"]
    if launcher == "torchrun":
        done = torchrun(2, *command)
    else:
        program = [sys.executable, str(ROOT / "cli.py"), *command]
        done = subprocess.run(program, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: max_length 1 leaves no training example")
    assert done.returncode != 0
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ddp", "torchrun"])
def test_a_dead_process_ends_the_job(launcher: str, tmp_path: Path) -> None:
    torch_run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *(torch_run if launcher == "torchrun" else []), str(ROOT / "cli.py"), "fit"]
    command += [*COMMON, *TWO, *METHODS["PromptTuning"], "--trainer.max_steps=100000", "--save_every=1"]
    command += [f"--run_dir={tmp_path / 'run'}"]
    said = tmp_path / "said.txt"
    with said.open("w", encoding="utf-8") as file:
        job = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            saved, end = tmp_path / "run" / "checkpoints" / "last.ckpt", time.monotonic() + 120
            while not saved.exists():
                assert job.poll() is None, said.read_text(encoding="utf-8")
                assert time.monotonic() < end
                time.sleep(0.2)
            children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text(encoding="utf-8").split()
            os.kill(int(children[-1]), signal.SIGKILL)  # the process of rank 1
            assert job.wait(timeout=60) != 0
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    text = said.read_text(encoding="utf-8")
    if launcher == "torchrun":
        assert re.search(r"rank +: 1 .*\n.*exitcode +: -9", text), text
    else:
        # Or, when gloo does not notice, Lightning's observer.
        found = f"error: rank 1 ended with code -9|PID {children[-1]} terminated with code -9"
        assert re.search(found, text), text


@pytest.mark.slow
def test_another_backbone_on_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a machine has an older copy of it: same path, same shape, other weights."""
    for rank in range(2):
        file = save_tiny_backbone(tmp_path / str(rank)) / "model.safetensors"
        weights = load_file(file)
        weights["model.norm.weight"] *= 1 + rank
        save_file(weights, file, metadata={"format": "pt"})
    monkeypatch.setenv("BACKBONES", str(tmp_path))
    folder = tmp_path / "run"
    flags = [*COMMON, *TWO, *METHODS["PromptTuning"], "--trainer.max_steps=2", f"--run_dir={folder}"]
    done = run("fit", *flags, ranks=2, program=different_backbones.main)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("error: rank 1: backbone")]
    assert len(told) == 1
    assert "differs from that of rank 0 (" in told[0]
    assert not folder.exists()

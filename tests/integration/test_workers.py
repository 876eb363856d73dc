"""Several ``promptstage compare --resume`` processes that share the rows of one comparison."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from promptstage.comparisons.claims import Claims
from tests.configs.files import ROOT
from tests.tiny_folder import QUIET

pytestmark = pytest.mark.slow
SIZES = ["--data.train_size=64", "--data.validation_size=4", "--data.test_size=8", "--data.max_new_tokens=6"]
DPC = ["--trainer.callbacks=DPC"]
DURATIONS = 2  # last columns of the table


def write_study(folder: Path, steps: int = 30, **rows: object) -> Path:
    file = folder / "study.yaml"
    values = {
        "title": "workers",
        "options": ["--data=Generated", "--data.task=addition", *SIZES, "--data.batch_size=4", *QUIET],
        "test_options": QUIET,
        "rows": {
            "PT": ["--model=PromptTuning", "--model.num_virtual_tokens=4", f"--trainer.max_steps={steps}"],
            "PT + DPC": {"of": "PT", "calibrate": True, "test": DPC},
            "LoRA": ["--model=LoRA", "--model.rank=1", f"--trainer.max_steps={steps}"],
            "prefix": ["--model=PrefixTuning", "--model.num_virtual_tokens=2", "--trainer.max_steps=2"],
            **rows,
        },
    }
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return file


def start(file: Path, run: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "cli.py"), "compare", str(file), f"--run-dir={run}", "--resume"]
    return subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def end(workers: Sequence["subprocess.Popen[str]"], code: int = 0) -> list[str]:
    """Wait for workers, and return their output."""
    outputs = [worker.communicate(timeout=900)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [code] * len(workers), "\n".join(outputs)
    return outputs


def table(run: Path) -> list[list[str]]:
    """Return the cells of the table without durations."""
    lines = (run / "table.md").read_text(encoding="utf-8").splitlines()
    return [line.split(" | ")[:-DURATIONS] for line in lines]


def wait_for(condition: Path, workers: Sequence["subprocess.Popen[str]"]) -> None:
    deadline = time.monotonic() + 600
    while not condition.exists():
        assert all(worker.poll() is None for worker in workers)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the comparison, run by one worker."""
    folder = tmp_path_factory.mktemp("alone")
    end([start(write_study(folder), folder / "run")])
    return folder / "run"


def test_a_killed_workers_row_is_finished_by_the_other(alone: Path, tmp_path: Path) -> None:
    file, run = write_study(tmp_path), tmp_path / "run"
    workers = [start(file, run) for _ in range(2)]  # in the same instant, into a folder that does not exist
    wait_for(run / "pt" / "checkpoints" / "last.ckpt", workers)
    holder = json.loads((run / ".claims" / "row-pt.1").read_text(encoding="utf-8"))
    (killed,) = (worker for worker in workers if worker.pid == holder["process"])
    killed.kill()
    killed.wait()
    assert not list(run.glob("pt/test*/summary.json"))
    (output,) = end([worker for worker in workers if worker is not killed])
    assert f"row PT: taken over from {holder['host']}, process {killed.pid}: the process has ended" in output
    # No row was tested twice, and the only second fit is the one that was resumed.
    assert {len(list((run / row).glob("test*"))) for row in ("pt", "pt-dpc", "lora", "prefix")} == {1}
    logs = "".join(log.read_text(encoding="utf-8") for log in run.glob("log*.txt"))
    commands = [line.split()[2] for line in logs.splitlines() if line.startswith("$ promptstage")]
    assert (commands.count("fit"), commands.count("calibrate"), commands.count("test")) == (4, 1, 4)
    assert sorted(log.name for log in run.glob("log*.txt")) == ["log-2.txt", "log.txt"]
    assert table(run) == table(alone)
    records = json.loads((run / "compare.json").read_text(encoding="utf-8"))
    assert set(records) == {"PT", "PT + DPC", "LoRA", "prefix"}
    assert records["PT"]["fit"] is None  # only part of it is known
    assert records["PT"]["calibrated"]
    assert not list(tmp_path.glob("run-2"))


def test_a_failed_row_does_not_end_the_other_workers(tmp_path: Path) -> None:
    rows = {"bad": ["--model=PromptTuning", "--model.num_virtual_tokens=0"], "bad + DPC": {"of": "bad"}}
    file, run = write_study(tmp_path, steps=2, **rows), tmp_path / "run"
    (run / ".claims").mkdir(parents=True)
    claims = Claims(run / ".claims", print)
    claim = claims.acquire("row-bad")
    assert claim is not None
    worker = start(file, run)
    wait_for(run / "prefix" / "prompt.safetensors", [worker])
    claims.release(claim, failed=True)  # as a worker does whose command fails
    (output,) = end([worker], code=1)
    claims.close()
    assert f"bad: not run: a command failed on {claim.holder.host}" in output
    assert "bad + DPC: not run: it needs bad" in output
    assert [cells[0] for cells in table(run)[4:]] == ["| PT", "| PT + DPC", "| LoRA", "| prefix"]
    # A later worker tries again, and the command fails.
    (output,) = end([start(file, run)], code=2)
    assert "num_virtual_tokens must be >= 1, got 0" in output

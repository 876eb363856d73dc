"""Kill, stop and starve fits of several processes at random moments, resume them, and compare.

    python -m tests.faults --repetitions 20

Every run must end as one that nothing happened to: same prompt, optimiser and schedule, bit for bit. Prints a
line a repetition and a table; the exit code is 1 if any went wrong. Needs Linux, and root to mount a tmpfs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
STEPS = 240
FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data=Generated"]
FLAGS += ["--data.task=addition", "--data.validation_size=4", "--data.batch_size=4", "--data.train_size=70"]
FLAGS += ["--model=DHAM", "--model.partition=[0,4,8]", "--model.num_virtual_tokens=12", "--save_every=1"]
FLAGS += ["--model.val_generations=2", "--model.optimizer.schedule=cosine", "--model.optimizer.lr=0.01"]
FLAGS += [f"--trainer.max_steps={STEPS}", "--trainer.val_check_interval=7"]
PATIENCE = 60  # seconds in which a job whose process has died must end


@dataclass
class Job:
    """A fit of ``processes`` processes, started as a user would; ``said`` is what it printed."""

    run: Path
    processes: int
    resume: bool = False
    said: str = ""
    seconds: float = 0.0
    process: Any = field(init=False)

    def __post_init__(self) -> None:
        several = [f"--trainer.devices={self.processes}", "--trainer.strategy=ddp"]
        flags = [f"--ckpt_path={self.last}"] if self.resume else [*FLAGS, *several, f"--run_dir={self.run}"]
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # read when the job has ended
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), "fit", *flags],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    @property
    def last(self) -> Path:
        return self.run / "checkpoints" / "last.ckpt"

    def members(self) -> list[int]:
        """Process ids, rank 0 first; fewer while the job starts or ends."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            ids = [int(one) for one in children.read_text(encoding="utf-8").split()]
        except OSError:
            return []
        return [self.process.pid, *(one for one in ids if "cli.py" in _command(one))]

    def wait(self, seconds: float) -> int | None:
        """The exit code; None, and everything killed, when it takes longer."""
        started = time.monotonic()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.seconds = time.monotonic() - started
        self.log.seek(0)
        self.said = self.log.read()
        return code


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8")
    except OSError:
        return ""


# --- faults: each gets a running job, and says what it did --------------------------------------------


def kill_one(job: Job, draw: random.Random) -> str:
    """kill -9 of one process."""
    members = job.members()
    if not members:
        return ""
    rank = draw.randrange(len(members))
    os.kill(members[rank], signal.SIGKILL)
    return f"rank {rank}"


def kill_all(job: Job, draw: random.Random) -> str:
    """kill -9 of all processes."""
    os.killpg(job.process.pid, signal.SIGKILL)
    return "all ranks"


def terminate(job: Job, draw: random.Random) -> str:
    """SIGTERM to one process, or to all."""
    members = job.members()
    if not members:
        return ""
    chosen = members if draw.random() < 0.5 else [draw.choice(members)]
    for one in chosen:
        os.kill(one, signal.SIGTERM)
    return "all ranks" if len(chosen) == len(members) else f"rank {members.index(chosen[0])}"


def fill(job: Job, draw: random.Random) -> str:
    """No byte is left on the disk, to the end of the job."""
    filler = job.run.parent / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return "disk full"


FAULTS: dict[str, Callable[[Job, random.Random], str]] = {
    "kill -9 one": kill_one,
    "kill -9 all": kill_all,
    "SIGTERM": terminate,
    "disk full": fill,
}


# --- a repetition -------------------------------------------------------------------------------------


def state(run: Path) -> dict[str, Any]:
    """All that a run must end with."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {
        key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")
    }
    # Not its bytes: the order of a safetensors file's metadata is random.
    return kept | {"rng": checkpoint["rng"], "prompt": load_file(run / "prompt.safetensors")}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def damaged(run: Path) -> list[str]:
    """Checkpoints that cannot be read."""
    broken = []
    for path in run.rglob("*.ckpt"):
        try:
            torch.load(path, weights_only=True)
        except Exception:
            broken.append(path.name)
    return broken


def repeat(
    kind: str, folder: Path, processes: int, wanted: dict[str, Any], lasts: float, draw: random.Random
) -> tuple[str, str]:
    """One fault and what came of it: a verdict for the table, and what is told of it."""
    run, moment = folder / "run", draw.uniform(0.3, 1) * lasts
    job = Job(run, processes)
    try:
        job.process.wait(moment)
    except subprocess.TimeoutExpired:
        done = FAULTS[kind](job, draw)
    else:
        done = ""
    code = job.wait(PATIENCE)
    (folder / "filler").unlink(missing_ok=True)
    told = f"after {moment:.1f} s, {done or 'ended before'}: exit code {code} {job.seconds:.1f} s later"
    if code is None:
        return "still ran", told + f"\n{job.said}"
    if done and code == 2 and "Traceback" in job.said:
        return "a traceback", told + f"\n{job.said}"
    if broken := damaged(run):
        return f"half checkpoint {broken}", told
    if code:
        there = job.last.is_file()
        if there:
            saved = torch.load(job.last, weights_only=True)["global_step"]
            told += f"; resumed from step {saved}"
        else:
            shutil.rmtree(run, ignore_errors=True)
            told += "; nothing saved yet, started anew"
        again = Job(run, processes, resume=there)
        if again.wait(10 * lasts + PATIENCE):
            return "not resumed", told + f"\n{again.said}"
    found = state(run)
    other = [key for key in wanted if not same(found[key], wanted[key])]
    return (f"another {', '.join(other)}" if other else "identical"), told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in options.kinds}
    with tempfile.TemporaryDirectory() as where:
        whole = Job(Path(where) / "whole", options.processes)
        started = time.monotonic()
        assert whole.wait(600) == 0, whole.said
        lasts = time.monotonic() - started
        wanted = state(whole.run)
        print(f"undisturbed: {lasts:.1f} s for {STEPS} steps on {options.processes} processes", flush=True)
        disk = Path(where) / "disk"
        disk.mkdir()
        for kind in options.kinds:
            for number in range(options.repetitions):
                draw = random.Random(f"{options.seed}/{kind}/{number}")
                full = kind == "disk full"
                folder = disk if full else Path(where) / f"{kind} {number}".replace(" ", "-")
                folder.mkdir(exist_ok=True)
                if full:
                    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
                try:
                    verdict, told = repeat(kind, folder, options.processes, wanted, lasts, draw)
                finally:
                    if full:
                        subprocess.run(["umount", str(disk)], check=True)
                counts[kind][verdict] += 1
                print(f"{kind} {number + 1}: {told}: {verdict}", flush=True)
    print("\n| fault | repetitions | resumed, bit-identical | otherwise |\n| --- | --- | --- | --- |")
    for kind, found in counts.items():
        others = ", ".join(f"{n} {name}" for name, n in found.items() if name != "identical") or "none"
        print(f"| {kind} | {sum(found.values())} | {found['identical']} | {others} |")
    return int(any(set(found) != {"identical"} for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())

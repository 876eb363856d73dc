"""Kill, stop and starve fits of several processes at random moments, resume them, and compare.

    python -m tests.faults --repetitions 20

Every run must end as one that nothing happened to: same prompt, optimizer and schedule, bit for bit. One
repetition in four is hit at any time, start-up included; the others once a first checkpoint is there. Prints
a line a repetition and a table; the exit code is 1 if any went wrong. Needs Linux, and root to mount a tmpfs.
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

ROOT = Path(__file__).parents[1]
STEPS = 240
FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data=Generated"]
FLAGS += ["--data.task=addition", "--data.validation_size=4", "--data.batch_size=4", "--data.train_size=70"]
FLAGS += ["--model=DHAM", "--model.partition=[0,4,8]", "--model.num_virtual_tokens=12", "--save_every=1"]
FLAGS += ["--model.val_generations=2", "--model.optimizer.schedule=cosine", "--model.optimizer.lr=0.01"]
FLAGS += [f"--trainer.max_steps={STEPS}", "--trainer.val_check_interval=7"]
RESUMED, ANEW, ENDED = "resumed, bit-identical", "started anew, bit-identical", "had ended, bit-identical"
FINE = (RESUMED, ANEW, ENDED)
PATIENCE = 60  # seconds in which a job whose process has died must end


@dataclass
class Job:
    """Fit on ``processes`` ranks, started from the command line; ``said`` is its output."""

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

    def running(self) -> bool:
        """Return whether any of its processes is alive, orphans included."""
        return self.process.poll() is None or any(_group(one) == self.process.pid for one in _processes())

    def wait(self, seconds: float) -> int | None:
        """Return the exit code when all processes have ended; after the timeout kill them and return None."""
        started = time.monotonic()
        while self.running() and time.monotonic() < started + seconds:
            time.sleep(0.05)
        code = self.process.poll()
        if self.running():
            code = None
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.seconds = time.monotonic() - started
        self.log.seek(0)
        self.said = self.log.read()
        return code


def _processes() -> list[int]:
    return [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]


def _group(process: int) -> int | None:
    """Return the group of a process; None if it has ended."""
    try:
        state, _, group = (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:3]
        )
    except OSError:
        return None
    return None if state == "Z" else int(group)


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8")
    except OSError:
        return ""


# --- faults: each gets a running job, and says what it did --------------------------------------------


def kill_one(job: Job, draw: random.Random) -> str:
    """Send SIGKILL to one process."""
    members = job.members()
    if not members:
        return ""
    rank = draw.randrange(len(members))
    os.kill(members[rank], signal.SIGKILL)
    return f"rank {rank}"


def kill_all(job: Job, draw: random.Random) -> str:
    """Send SIGKILL to all processes."""
    os.killpg(job.process.pid, signal.SIGKILL)
    return "all ranks"


def terminate(job: Job, draw: random.Random) -> str:
    """Send SIGTERM to one process, or to all."""
    members = job.members()
    if not members:
        return ""
    chosen = members if draw.random() < 0.5 else [draw.choice(members)]
    for one in chosen:
        os.kill(one, signal.SIGTERM)
    return "all ranks" if len(chosen) == len(members) else f"rank {members.index(chosen[0])}"


def fill(job: Job, draw: random.Random) -> str:
    """Fill the disk until the end of the job."""
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
    """Return the final state of a run."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {
        key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")
    }
    return kept | {"rng": checkpoint["rng"], "prompt": (run / "prompt.safetensors").read_bytes()}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def damaged(run: Path) -> list[str]:
    """Return the checkpoints that cannot be read."""
    broken = []
    for path in run.rglob("*.ckpt"):
        try:
            torch.load(path, weights_only=True)
        except Exception:
            broken.append(path.name)
    return broken


@dataclass
class Whole:
    """Undisturbed run: its final state, and the seconds to its first checkpoint and its end."""

    wanted: dict[str, Any]
    first: float
    end: float


def undisturbed(run: Path, processes: int) -> Whole:
    started = time.monotonic()
    job = Job(run, processes)
    while job.running() and not job.last.is_file():
        time.sleep(0.05)
    first = time.monotonic() - started
    assert job.wait(600) == 0, job.said
    return Whole(state(run), first, time.monotonic() - started)


def repeat(
    kind: str, folder: Path, processes: int, whole: Whole, anywhere: bool, draw: random.Random
) -> tuple[str, str]:
    """Cause one fault, and resume; return a verdict for the table and a description."""
    run = folder / "run"
    job = Job(run, processes)
    while not anywhere and job.running() and not job.last.is_file():
        time.sleep(0.05)
    moment = draw.uniform(0, whole.end if anywhere else whole.end - whole.first)
    try:
        job.process.wait(moment)
    except subprocess.TimeoutExpired:
        done = FAULTS[kind](job, draw)
    else:
        done = ""
    code = job.wait(PATIENCE)
    (folder / "filler").unlink(missing_ok=True)
    since = "the start" if anywhere else "the first checkpoint"
    told = (
        f"{moment:.1f} s after {since}, {done or 'ended before'}: exit code {code} {job.seconds:.1f} s later"
    )
    if code is None:
        return "still ran", told + f"\n{job.said}"
    if (
        kind == "kill -9 one"
        and done not in ("", "rank 0")
        and code
        and f"rank {done[5:]} ended" not in job.said
    ):
        return "rank not told", told + f"\n{job.said}"
    if done and code == 2 and "Traceback" in job.said:
        return "a traceback", told + f"\n{job.said}"
    if broken := damaged(run):
        return f"half checkpoint {broken}", told
    verdict = ENDED
    if code:
        there = job.last.is_file()
        verdict = RESUMED if there else ANEW
        if there:
            saved = torch.load(job.last, weights_only=True)["global_step"]
            told += f"; resumed from step {saved}"
        else:
            shutil.rmtree(run, ignore_errors=True)
            told += "; nothing saved yet"
        again = Job(run, processes, resume=there)
        if again.wait(10 * whole.end + PATIENCE):
            return "not resumed", told + f"\n{again.said}"
    found = state(run)
    other = [key for key in whole.wanted if not same(found[key], whole.wanted[key])]
    return (f"another {', '.join(other)}" if other else verdict), told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in options.kinds}
    with tempfile.TemporaryDirectory() as where:
        whole = undisturbed(Path(where) / "whole", options.processes)
        print(
            f"undisturbed: {whole.end:.1f} s for {STEPS} steps on {options.processes} processes, "
            f"first checkpoint after {whole.first:.1f} s",
            flush=True,
        )
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
                    verdict, told = repeat(kind, folder, options.processes, whole, number % 4 == 3, draw)
                finally:
                    if full:
                        subprocess.run(["umount", str(disk)], check=True)
                counts[kind][verdict] += 1
                print(f"{kind} {number + 1}: {told}: {verdict}", flush=True)
    print(f"\n| fault | repetitions | {' | '.join(FINE)} | wrong |\n| --- | --- | --- | --- | --- | --- |")
    for kind, found in counts.items():
        wrong = ", ".join(f"{n} {name}" for name, n in found.items() if name not in FINE) or "none"
        print(f"| {kind} | {found.total()} | {' | '.join(str(found[name]) for name in FINE)} | {wrong} |")
    return int(any(set(found) - set(FINE) for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())

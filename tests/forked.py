"""Commands in processes of their own, one or several ranks, forked from one that has imported everything.

Importing torch, Lightning and transformers takes a new interpreter six seconds; a fork has them at once.
The fork server is the standard library's: a process of one thread that only imports. Each rank has the
environment that ``torchrun`` sets, a store in the test's process to meet at, as in torchrun's agent, and an
exit code, output and signals of its own. Tests of torchrun, srun or Lightning's launcher use those
(``tests.launchers``), and tests of a command's files and messages call it in their own process
(``tests.tiny_folder.call``).
"""

import atexit
import contextlib
import gc
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from multiprocessing import connection, forkserver, get_context
from pathlib import Path
from typing import Any

import torch

from promptstage import cli

Command = Sequence[object]
Program = Callable[[list[str]], int]

PACKAGES = ("callbacks", "command_line", "composition", "datamodules", "grading")
PACKAGES += ("lightning_modules", "utilities")
LIBRARIES = ["lightning.pytorch.loggers", "matplotlib.pyplot", "pydantic", "scipy.cluster.hierarchy"]
LIBRARIES += ["torch.utils.tensorboard", "transformers.models.llama.modeling_llama"]
SERVER = get_context("forkserver")


def imports() -> list[str]:
    """Return the modules that the fork server imports: what commands use, except libraries with threads."""
    packages = [import_module(f"promptstage.{package}") for package in PACKAGES]
    own = [
        module.name
        for package in packages
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return ["tests.forked", *own, *LIBRARIES]


def start_server() -> None:
    """Start the fork server of this process, if it is not running."""
    SERVER.set_forkserver_preload(imports())
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def be_rank(
    program: Program, commands: list[list[str]], environment: dict[str, str], outputs: tuple[str, str]
) -> None:
    """Run the commands one after the other in this process, up to the first that fails."""
    from lightning.pytorch.utilities import rank_zero_only

    gc.freeze()  # a collection would copy the pages of all modules
    for stream, file in enumerate(outputs, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    rank_zero_only.rank = int(environment.get("RANK", 0))  # Lightning reads it when it is imported
    try:
        for arguments in commands:
            sys.argv = ["cli.py", *arguments]
            if code := program(arguments):
                sys.exit(code)
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends its processes without them


class Job:
    """The running ranks of one job.

    Args:
        commands: arguments of each command; a rank runs all of them in one process.
        ranks: how many; with one rank, the environment has none of a launcher.
        program: a function of a command's arguments, of a module that can be imported.
    """

    def __init__(self, commands: Sequence[Command], ranks: int, program: Program = cli.main) -> None:
        start_server()
        self._folder = tempfile.TemporaryDirectory()
        self.outputs = (f"{self._folder.name}/stdout", f"{self._folder.name}/stderr")
        for file in self.outputs:
            Path(file).touch()
        texts = [[str(argument) for argument in command] for command in commands]
        environments = [dict(os.environ)] if ranks == 1 else list(self._environments(ranks))
        self.ranks = [
            SERVER.Process(target=be_rank, args=(program, texts, environment, self.outputs))
            for environment in environments
        ]
        for process in self.ranks:
            process.start()

    def _environments(self, ranks: int) -> Iterator[dict[str, str]]:
        """Yield the environment of each rank under torchrun."""
        self._store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._store.port), "GROUP_RANK": "0"}
        common |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_WORLD_SIZE": "1"}
        common |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        common |= {"TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0"}
        for rank in range(ranks):
            yield os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}

    @property
    def stdout(self) -> str:
        return Path(self.outputs[0]).read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return Path(self.outputs[1]).read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """Return the exit code of the first rank that failed, or 0; None while all others run."""
        codes = [process.exitcode for process in self.ranks]
        failed = [code for code in codes if code]
        return failed[0] if failed else None if None in codes else 0

    def wait(self, timeout: float) -> int:
        """Wait until all ranks have ended; a failed rank ends the others, as torchrun does.

        Raises:
            TimeoutError: after ``timeout`` seconds; the ranks are killed.
        """
        end = time.monotonic() + timeout
        while (code := self.poll()) is None and time.monotonic() < end:
            running = [process.sentinel for process in self.ranks if process.exitcode is None]
            if running:  # waiting for none of them would take all the time that is left
                connection.wait(running, timeout=end - time.monotonic())
        if code:
            for process in self.ranks:
                process.terminate()
            for process in self.ranks:
                process.join(30)
        said = self.stdout + self.stderr
        self.kill()
        if code is None:
            raise TimeoutError(f"not finished after {timeout} s: {said}")
        return code

    def kill(self) -> None:
        """Kill what is still running."""
        for process in self.ranks:
            process.kill()
            process.join()


@contextlib.contextmanager
def started(*command: object, ranks: int = 1, program: Program = cli.main) -> Iterator[Job]:
    """Start a command in the background; kill it at the end."""
    job = Job([command], ranks, program)
    try:
        yield job
    finally:
        job.kill()


def run(
    *command: object, ranks: int = 1, program: Program = cli.main, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a command; see :class:`Job`."""
    return _finished(Job([command], ranks, program), timeout)


def run_all(ranks: int, commands: Sequence[Command]) -> str:
    """Run commands that must succeed on the ranks, one after the other; return what all of them print."""
    flags = [f"--trainer.devices={ranks}", *(["--trainer.strategy=ddp"] if ranks > 1 else [])]
    done = _finished(Job([[*command, *flags] for command in commands], ranks), timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _finished(job: Job, timeout: float) -> subprocess.CompletedProcess[str]:
    code: Any = job.wait(timeout)
    return subprocess.CompletedProcess("cli.py", code, job.stdout, job.stderr)

"""Commands one after the other on several processes, which import everything once."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
Command = Sequence[object]


def torchrun(
    processes: int, program: object, *args: object, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """``torchrun`` of a Python program on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(processes), str(program), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def on_processes(processes: int, commands: Sequence[Command]) -> str:
    """Run the commands on each of the processes; standard output and errors of all."""
    flags = [f"--trainer.devices={processes}", "--trainer.strategy=ddp"]
    every = [[*map(str, command), *flags] for command in commands]
    done = torchrun(processes, Path(__file__), json.dumps(every))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from promptstage import cli

    for arguments in json.loads(sys.argv[1]):
        if code := cli.main(arguments):
            sys.exit(code)

"""Commands under the launchers of users; ``tests.forked`` is for all that does not depend on a launcher."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def torchrun(ranks: int, *args: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a command under ``torchrun``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(ranks), str(ROOT / "cli.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)

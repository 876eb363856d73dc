"""Names of Python that Windows lacks are not needed to fit, test and predict."""

import json
import subprocess
import sys
from pathlib import Path

from tests.configs.files import ROOT
from tests.tiny_folder import QUIET

SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
import datasets, filelock, lightning.pytorch.cli, torch, torchmetrics, transformers  # noqa: E401
import torch.utils.tensorboard, matplotlib.pyplot, pydantic, scipy.stats, peft  # noqa: E401, F401
from lightning.pytorch.trainer.connectors import signal_connector  # noqa: E402
signal_connector._IS_WINDOWS = True
signal_connector._SignalConnector._get_current_signal_handlers = staticmethod(lambda: {})
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "setitimer", "pthread_sigmask"):
    delattr(signal, name)
for name in ("O_NOFOLLOW", "getuid", "fork", "register_at_fork", "mkfifo"):
    delattr(os, name)
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
from cli import main  # noqa: E402
for line in sys.stdin:
    if code := main(line.split()):
        sys.exit(code)
"""
FIT = "--model=DHAM --model.num_virtual_tokens=6 --data=Generated --data.train_size=100 --data.test_size=2"


def test_commands_start(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("1+2\n", encoding="utf-8")
    commands = [
        f"fit {FIT} --data.validation_size=2 --trainer.max_steps=1 --run_dir=run",
        "test --ckpt_path=run",
        "predict --ckpt_path=run --questions=q.txt",
    ]
    lines = "".join(" ".join([command, *QUIET]) + "\n" for command in commands)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        input=lines,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "test" / "results.jsonl").is_file()
    assert json.loads(done.stdout.splitlines()[-1])["question"] == "1+2"

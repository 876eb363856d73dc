"""A command with short heartbeats, of which rank 1 hangs in its third step."""

import os
import time
from typing import Any

from promptstage import cli
from promptstage.callbacks.run import stalled_processes
from promptstage.lightning_modules.base import SoftPromptModule


def short_heartbeats(arguments: list[str]) -> int:
    """Run the command; no rank hangs."""
    stalled_processes.AFTER, stalled_processes.BEAT = 6.0, 0.5
    return cli.main(arguments)


def hanging(arguments: list[str]) -> int:
    """Run the command; rank 1 hangs."""
    original = SoftPromptModule.training_step

    def training_step(self: SoftPromptModule, *args: Any) -> Any:
        if self.trainer.global_step == 2 and os.environ["RANK"] == "1":
            time.sleep(10**6)
        return original(self, *args)

    SoftPromptModule.training_step = training_step  # type: ignore[method-assign]
    return short_heartbeats(arguments)

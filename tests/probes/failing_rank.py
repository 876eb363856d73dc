"""A command whose second rank meets a NaN loss, or runs out of memory, in its sixth step."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from promptstage import cli
from promptstage.lightning_modules.base import SoftPromptModule


def out_of_memory(arguments: list[str]) -> int:
    """Run the command; rank 1 allocates too much."""
    return _failing(arguments, lambda module: torch.empty(2**60, dtype=torch.uint8))


def nan_loss(arguments: list[str]) -> int:
    """Run the command; rank 1 has a NaN loss."""
    return _failing(arguments, lambda module: module._step_sums.fill_(math.nan))


def _failing(arguments: list[str], fail: Callable[[SoftPromptModule], Any]) -> int:
    original = SoftPromptModule.training_step

    def training_step(self: SoftPromptModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = original(self, batch, batch_idx)
        if self.trainer.global_step == 5 and dist.get_rank() == 1:
            fail(self)
        return loss

    SoftPromptModule.training_step = training_step  # type: ignore[method-assign]
    return cli.main(arguments)

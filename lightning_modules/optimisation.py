"""AdamW and its learning-rate schedule."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from utilities.errors import UserError, choose

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up.

    Attributes:
        lr: peak learning rate. DPC uses 1e-3, DHAM 2e-5.
        weight_decay: decoupled weight decay.
        betas: AdamW's averaging coefficients.
        warmup_steps: optimiser steps over which the rate rises linearly from 0.
        schedule: after the warm-up ``constant``, or to 0 at the last step: ``linear``, ``cosine``.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        choose("optimizer schedule", self.schedule, get_args(Schedule))
        if self.lr <= 0:
            raise UserError(f"optimizer lr must be positive, not {self.lr}")
        if self.warmup_steps < 0:
            raise UserError(f"optimizer warmup_steps must not be negative, not {self.warmup_steps}")

    def build(self, parameters: Iterable[Parameter], total_steps: float) -> tuple[AdamW, LambdaLR]:
        """Optimiser and per-step schedule for a run of ``total_steps`` optimiser steps."""
        optimizer = AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas)

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / (self.warmup_steps + 1)
            if self.schedule == "constant" or math.isinf(total_steps):
                return 1.0
            progress = (step - self.warmup_steps) / max(1.0, total_steps - self.warmup_steps)
            left = max(0.0, 1.0 - progress)
            return left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))

        return optimizer, LambdaLR(optimizer, factor)

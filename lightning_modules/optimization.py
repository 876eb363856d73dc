"""AdamW and its learning-rate schedule."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from promptstage.lightning_modules.checkpoint_numbers import is_count, short_repr
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError, choose

Schedule = Literal["constant", "linear", "cosine"]
LARGEST = 1e15  # of lr and weight_decay; torch cannot multiply float32 by their product beyond 3e38


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of AdamW and its learning-rate schedule.

    Attributes:
        lr: peak learning rate. DPC uses 1e-3, DHAM 2e-5.
        weight_decay: decoupled weight decay.
        betas: AdamW's averaging coefficients.
        warmup_steps: optimizer steps over which the rate rises linearly from 0.
        schedule: after the warm-up: ``constant``, or ``linear`` or ``cosine`` decay to 0 at the last step.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        choose("optimizer schedule", self.schedule, get_args(Schedule))
        if not 0 < self.lr <= LARGEST:
            raise UserError(f"optimizer lr must be > 0 and <= {LARGEST:g}, got {self.lr}")
        if not 0 <= self.weight_decay <= LARGEST:
            raise UserError(
                f"optimizer weight_decay must be >= 0 and <= {LARGEST:g}, got {self.weight_decay}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer betas must be >= 0 and < 1, got {list(self.betas)}")
        check_minimum({"optimizer warmup_steps": self.warmup_steps}, 0)

    def build(self, parameters: Iterable[Parameter], total_steps: float) -> tuple[AdamW, LambdaLR]:
        """Build optimizer and per-step schedule for a run of ``total_steps`` optimizer steps.

        Loading their states restores moments and position; rates, decay and betas stay as configured.
        """
        optimizer = AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas)
        optimizer.register_load_state_dict_pre_hook(_moments_only)

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / (self.warmup_steps + 1)
            if self.schedule == "constant" or math.isinf(total_steps):
                return 1.0
            progress = (step - self.warmup_steps) / max(1.0, total_steps - self.warmup_steps)
            left = max(0.0, 1.0 - progress)
            return left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))

        return optimizer, StepSchedule(optimizer, factor)


class StepSchedule(LambdaLR):
    """Learning-rate schedule whose state is its position; rates are those of the configuration."""

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the position, and set the optimizer's rate for it.

        Raises:
            UserError: if the state has no valid position.
        """
        for name in ("last_epoch", "_step_count"):
            position = state_dict.get(name)
            if not is_count(position):
                raise UserError(
                    f"the checkpoint is damaged: the schedule's {name} must be >= 0, "
                    f"got {short_repr(position)}"
                )
            setattr(self, name, position)
        self._last_lr = []
        for group, peak, factor in zip(
            self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True
        ):
            group["lr"] = peak * factor(self.last_epoch)
            self._last_lr.append(group["lr"])


def _moments_only(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the hyperparameters of a state to load by the optimizer's own.

    Raises:
        UserError: if the state does not hold AdamW's moments of these parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    groups, moments = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(moments, Mapping) or len(groups) != len(own):
        raise UserError("the checkpoint is damaged: its optimizer state is not AdamW's")
    for group, own_group in zip(groups, own, strict=True):
        if not isinstance(group, Mapping) or group.get("params") != own_group["params"]:
            raise UserError("the checkpoint is damaged: its optimizer state belongs to other parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entry in moments.items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(entry, Mapping):
            raise UserError("the checkpoint is damaged: its optimizer state belongs to other parameters")
        shape = parameters[index].shape
        for name, expected in (("step", ()), ("exp_avg", shape), ("exp_avg_sq", shape)):
            value = entry.get(name)
            if not isinstance(value, Tensor) or value.shape != expected or not value.is_floating_point():
                raise UserError(
                    f"the checkpoint is damaged: the optimizer's {name} must have shape {tuple(expected)}"
                )
        for name, minimum in (("step", 1), ("exp_avg_sq", 0)):
            if (entry[name] < minimum).any():
                raise UserError(f"the checkpoint is damaged: the optimizer's {name} must be >= {minimum}")
    return {"state": dict(moments), "param_groups": own}

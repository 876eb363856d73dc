"""AdamW or Adafactor, and the learning-rate schedule.

Adafactor: "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", Shazeer and Stern, 2018,
arXiv:1804.04235; without relative step sizes and parameter scaling, as PEZ (Wen et al., 2023,
arXiv:2302.03668) uses it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Size, Tensor, tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from promptstage.lightning_modules.checkpoint_numbers import is_count, short_repr
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError, choose

Kind = Literal["adamw", "adafactor"]
Schedule = Literal["constant", "linear", "cosine"]
BETAS = (0.9, 0.999)
LARGEST = 1e15  # of lr and weight_decay; torch cannot multiply float32 by their product beyond 3e38


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer and its learning-rate schedule.

    Attributes:
        lr: peak learning rate. DPC uses 1e-3, DHAM 2e-5.
        weight_decay: decoupled weight decay.
        betas: AdamW's averaging coefficients; not for Adafactor.
        warmup_steps: optimizer steps over which the rate rises linearly from 0.
        schedule: after the warm-up: ``constant``, or ``linear`` or ``cosine`` decay to 0 at the last step.
        kind: ``adamw`` or ``adafactor``.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = BETAS
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    kind: Kind = "adamw"

    def __post_init__(self) -> None:
        choose("optimizer kind", self.kind, get_args(Kind))
        if self.kind != "adamw" and self.betas != BETAS:
            raise UserError(f"optimizer betas must not be set with kind {self.kind}, got {list(self.betas)}")
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

    @property
    def optimizer_name(self) -> str:
        """Name of the optimizer's class."""
        return {"adamw": "AdamW", "adafactor": "Adafactor"}[self.kind]

    def build(self, parameters: Iterable[Parameter], total_steps: float) -> tuple[Optimizer, LambdaLR]:
        """Build optimizer and per-step schedule for a run of ``total_steps`` optimizer steps.

        Loading their states restores moments and position; rates, decay and betas stay as configured.
        """
        optimizer = self._optimizer(parameters)
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

    def _optimizer(self, parameters: Iterable[Parameter]) -> Optimizer:
        if self.kind == "adamw":
            return AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas)
        from transformers.optimization import Adafactor

        return Adafactor(
            parameters,
            lr=self.lr,
            weight_decay=self.weight_decay,
            scale_parameter=False,
            relative_step=False,
            warmup_init=False,
        )


class StepSchedule(LambdaLR):
    """Learning-rate schedule whose state is its position; rates are those of the configuration."""

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def set_peak(self, lr: float) -> None:
        """Replace the peak rate, and set the optimizer's rate for the current position."""
        self.base_lrs = [lr] * len(self.base_lrs)
        self._set_rates()

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
        self._set_rates()

    def _set_rates(self) -> None:
        self._last_lr = []
        for group, peak, factor in zip(
            self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True
        ):
            group["lr"] = peak * factor(self.last_epoch)
            self._last_lr.append(group["lr"])


def _moments_only(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the hyperparameters of a state to load by the optimizer's own.

    Raises:
        UserError: if the state does not hold the optimizer's moments of these parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    groups, moments = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(moments, Mapping) or len(groups) != len(own):
        raise UserError(
            f"the checkpoint is damaged: its optimizer state is not that of {type(optimizer).__name__}"
        )
    for group, own_group in zip(groups, own, strict=True):
        if not isinstance(group, Mapping) or group.get("params") != own_group["params"]:
            raise UserError("the checkpoint is damaged: its optimizer state belongs to other parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entry in moments.items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(entry, Mapping):
            raise UserError("the checkpoint is damaged: its optimizer state belongs to other parameters")
        _check_entry(entry, parameters[index].shape, type(optimizer).__name__)
    return {"state": dict(moments), "param_groups": own}


def _check_entry(entry: Mapping[str, Any], shape: Size, name: str) -> None:
    """Check the optimizer's state of one parameter.

    Raises:
        UserError: naming the first value that is missing or invalid.
    """
    shapes: dict[str, tuple[int, ...]] = {"step": Size(), "exp_avg": shape, "exp_avg_sq": shape}
    if name == "Adafactor":
        if not is_count(entry.get("step")):
            raise UserError(
                f"the checkpoint is damaged: the optimizer's step must be >= 1, "
                f"got {short_repr(entry.get('step'))}"
            )
        entry = {**entry, "step": tensor(float(entry["step"]))}
        factors: dict[str, tuple[int, ...]] = {
            "exp_avg_sq_row": shape[:-1],
            "exp_avg_sq_col": shape[:-2] + shape[-1:],
        }
        shapes = {"step": Size(), "RMS": Size()} | (factors if len(shape) > 1 else {"exp_avg_sq": shape})
    for part, expected in shapes.items():
        value = entry.get(part)
        if not isinstance(value, Tensor) or value.shape != expected or not value.is_floating_point():
            raise UserError(
                f"the checkpoint is damaged: the optimizer's {part} must have shape {tuple(expected)}"
            )
        minimum = {"step": 1, "exp_avg": -math.inf}.get(part, 0)
        if (value < minimum).any():
            raise UserError(f"the checkpoint is damaged: the optimizer's {part} must be >= {minimum}")

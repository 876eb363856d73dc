"""DHAM: one soft prompt for each stage of the backbone (DHAM §4.2, Algorithm 2)."""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import nn

from lightning_modules.backbone.loading import BackboneConfig
from lightning_modules.backbone.prefix import Prefix, StageMode, stage_prefix
from lightning_modules.base import SoftPromptModule
from lightning_modules.initialisation import PromptInit, initial_prompt
from lightning_modules.optimisation import OptimizerConfig
from utilities.errors import UserError, choose, nearest

PARTITIONS = ("uniform", "single")


def split_budget(total: int, stages: int) -> list[int]:
    """``total`` virtual tokens over ``stages``, as evenly as possible, the first ones getting more.

    >>> split_budget(64, 3)
    [22, 21, 21]
    """
    if total < stages:
        raise UserError(f"a budget of {total} virtual tokens is smaller than the number of stages ({stages})")
    return [total // stages + (i < total % stages) for i in range(stages)]


class DHAM(SoftPromptModule):
    """A soft prompt P⁽ⁱ⁾, (m_i, d), at the first layer r(i) of each stage i.

    Paper symbols: G is the number of ``stages``, r(i) is ``stages[i]``, P⁽ⁱ⁾ is ``prompts[i]``.
    """

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),
        num_virtual_tokens: int = 64,
        stages: str | list[int] = "uniform",
        num_stages: int = 4,
        mode: StageMode = "accumulate",
        init: PromptInit = PromptInit(),
        optimizer: OptimizerConfig = OptimizerConfig(),
        val_generations: int = 64,
    ) -> None:
        """
        Args:
            backbone: the frozen language model.
            num_virtual_tokens: total budget, split evenly over the stages; the paper uses 64.
            stages: first layer of each stage, ascending; or ``uniform`` (stages of equal depth) or
                ``single`` (one stage at layer 0).
            num_stages: how many stages ``uniform`` makes (G; Table 3 of the paper: best at 3 to 5, by model).
            mode: ``accumulate``: a layer sees its own and all earlier stages' prompts (Algorithm 2);
                ``replace``: its own stage's only (eq. 5-6).
            init: how the virtual tokens start.
            optimizer: AdamW and its schedule.
            val_generations: validation questions answered at each validation; 0 for the loss alone.

        Raises:
            UserError: when stages or mode are unknown, stages are unsorted, or more than the budget.
        """
        super().__init__(backbone, optimizer, val_generations)
        choose("mode", mode, get_args(StageMode))
        if num_virtual_tokens < 1:
            raise UserError(f"num_virtual_tokens must be at least 1, not {num_virtual_tokens}")
        if isinstance(stages, str):
            if stages not in PARTITIONS:
                raise UserError(
                    f"stages '{stages}' is unknown: {nearest(stages, PARTITIONS)}, or a list: [0,9]"
                )
            split_budget(num_virtual_tokens, num_stages if stages == "uniform" else 1)
        else:
            _check_ascending(stages)
            split_budget(num_virtual_tokens, len(stages))
        if num_stages < 1:
            raise UserError(f"num_stages must be at least 1, not {num_stages}")
        self.num_virtual_tokens = num_virtual_tokens
        self.stages = stages
        self.num_stages = num_stages
        self.mode: StageMode = mode
        self.init = init

    def stage_starts(self) -> list[int]:
        """First layer of each stage."""
        if isinstance(self.stages, list):
            return self.stages
        if self.stages == "single":
            return [0]
        if self.num_stages > self.backbone.num_layers:
            raise UserError(
                f"{self.num_stages} stages do not fit into the backbone's {self.backbone.num_layers} layers"
            )
        return [i * self.backbone.num_layers // self.num_stages for i in range(self.num_stages)]

    def configure_prompts(self, generator: torch.Generator) -> None:
        self.starts = self.stage_starts()
        self.check_layers("stages", self.starts)
        lengths = split_budget(self.num_virtual_tokens, len(self.starts))
        self.prompts = nn.ParameterList(
            initial_prompt(self.backbone, self.init, length, start, generator)
            for start, length in zip(self.starts, lengths, strict=True)
        )

    def prefix(self) -> Prefix:
        return stage_prefix(self.backbone, self.starts, list(self.prompts), self.mode)

    def structure(self) -> dict[str, object]:
        return {"stages": list(self.starts), "mode": self.mode}


def _check_ascending(stages: Sequence[int]) -> None:
    if not stages:
        raise UserError("stages is an empty list: name the first layer of at least one stage")
    if list(stages) != sorted(set(stages)):
        raise UserError(f"stages must ascend without repeats, not {list(stages)}")

"""Objectives by their settings."""

from promptstage.lightning_modules.objectives.base import CrossEntropy, Objective
from promptstage.lightning_modules.objectives.config import GROUP_SIZE, KL_WEIGHT, ObjectiveConfig
from promptstage.lightning_modules.objectives.distillation import Distillation
from promptstage.lightning_modules.objectives.reward import Reward


def objective_of(config: ObjectiveConfig) -> Objective:
    """Build the objective that ``config`` names."""
    if config.kind == "reward":
        size = GROUP_SIZE if config.group_size is None else config.group_size
        return Reward(size, KL_WEIGHT if config.kl_weight is None else config.kl_weight)
    return Distillation(config.context) if config.kind == "distill" else CrossEntropy()

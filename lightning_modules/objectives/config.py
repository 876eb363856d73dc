"""Settings of an objective."""

from dataclasses import dataclass
from typing import Literal, get_args

from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError, choose

Kind = Literal["cross_entropy", "reward", "distill"]
GROUP_SIZE, KL_WEIGHT = 8, 0.04  # KL_WEIGHT is that of DeepSeekMath (arXiv:2402.03300, §4.2)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of an objective.

    Attributes:
        kind: ``cross_entropy`` of the gold rationale; ``reward``: policy gradient on groups of sampled
            generations, graded right or wrong (GRPO); ``distill``: divergence from the backbone that has
            ``context`` before the question.
        group_size: generations for each question, for ``reward``; None: 8.
        kl_weight: weight of the divergence from the backbone without a prompt, for ``reward``; None: 0.04.
        context: text before each question that the teacher of ``distill`` reads; ``@FILE`` on the command
            line reads it from a file.
    """

    kind: Kind = "cross_entropy"
    group_size: int | None = None
    kl_weight: float | None = None
    context: str = ""

    def __post_init__(self) -> None:
        choose("objective kind", self.kind, get_args(Kind))
        users = {"group_size": "reward", "kl_weight": "reward", "context": "distill"}
        for name, kind in users.items():
            value = getattr(self, name)
            if value not in (None, "") and self.kind != kind:
                raise UserError(f"objective.{name} needs objective.kind {kind}, got {self.kind}")
        check_minimum({"objective.group_size": self.group_size}, 2)
        check_minimum({"objective.kl_weight": self.kl_weight}, 0)
        if self.kind == "distill" and not self.context.strip():
            raise UserError("objective.kind distill needs a text that is not empty (objective.context)")

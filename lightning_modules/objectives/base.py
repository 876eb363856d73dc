"""Interface of objectives, and the default one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.evaluation_steps import EvaluationSteps


class StepLoss(NamedTuple):
    """Loss of a micro-batch.

    Attributes:
        total: scalar, summed over tokens.
        tokens: number of tokens, which the optimizer step divides by.
        sums: for each of the objective's metrics, a sum and the number of its terms.
    """

    total: Tensor
    tokens: int
    sums: Mapping[str, tuple[float, float]] = {}


class Objective(ABC):
    """Loss that a soft prompt is trained with.

    Attributes:
        metrics: logged values besides ``train/loss``, means over an optimizer step.
        monitor: logged value that selects the best checkpoint, and its mode.
    """

    metrics: ClassVar[tuple[str, ...]] = ()
    monitor: ClassVar[tuple[str, str]] = ("val/loss", "min")

    def check(self, module: EvaluationSteps, data: Any) -> None:  # noqa: B027  # most need none
        """Check, before a fit, that module and data module suit the objective; raises a UserError."""

    @abstractmethod
    def loss(self, module: EvaluationSteps, batch: Batch, prefix: Prefix | None) -> StepLoss:
        """Compute the loss of a batch that is not empty."""


class CrossEntropy(Objective):
    """Cross-entropy of the gold rationales, in nats."""

    def loss(self, module: EvaluationSteps, batch: Batch, prefix: Prefix | None) -> StepLoss:
        return StepLoss(*module.loss_of(batch, prefix))

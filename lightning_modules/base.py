"""Training loop of all methods: loss, gradients, optimizer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.context import check_context
from promptstage.lightning_modules.distribution import distribute
from promptstage.lightning_modules.evaluation_memory import choose_eval_batch_size
from promptstage.lightning_modules.evaluation_steps import EvaluationSteps
from promptstage.lightning_modules.finiteness import check_state, check_step, gradients_overflow
from promptstage.lightning_modules.objectives.build import objective_of
from promptstage.lightning_modules.objectives.config import ObjectiveConfig
from promptstage.lightning_modules.optimization import OptimizerConfig, StepSchedule
from promptstage.lightning_modules.precision import check_precision, check_trained_dtypes
from promptstage.lightning_modules.prompt_module import BackboneLike
from promptstage.lightning_modules.stored_prompt import StoredPrompt
from promptstage.lightning_modules.text_settings import text_settings_of
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from promptstage import Saliency


class SoftPromptModule(EvaluationSteps, StoredPrompt):
    """Trainable prompt over a frozen backbone.

    A method defines its parameters (``configure_prompts``) and the prefix that content attends to
    (``prefix_of``); training, evaluation and checkpoints are here and in the base classes.

    Logged values: ``train/loss`` (nats per trained token), ``train/prompt_norm``, ``train/lr`` and the
    metrics of the objective; for evaluations see :class:`EvaluationSteps`.
    """

    def __init__(
        self,
        backbone: BackboneLike,
        optimizer: OptimizerConfig,
        val_generations: int,
        objective: ObjectiveConfig = ObjectiveConfig(),
    ) -> None:
        super().__init__(backbone, val_generations)
        self.optimizer_config = optimizer
        self.objective = objective_of(objective)
        if objective.kind != "cross_entropy":
            self.monitor = self.objective.monitor
        if self.monitor[0] == "val/accuracy":
            reason = f"objective.kind {objective.kind} selects the best checkpoint by val/accuracy"
            check_minimum({"val_generations": val_generations}, 1, reason)
        self._step_sums = self._no_sums()
        self._configured = False

    def set_optimizer(self, optimizer: OptimizerConfig) -> None:
        """Replace the optimizer's settings before a fit, also in what checkpoints store."""
        self.optimizer_config = optimizer
        if "optimizer" in self.constructor_arguments:
            self.constructor_arguments["optimizer"] = optimizer

    @property
    def lr(self) -> float:
        """Peak learning rate, by the name that Lightning's ``LearningRateFinder`` sets during a fit."""
        return self.optimizer_config.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.set_optimizer(replace(self.optimizer_config, lr=value))
        for config in [] if self._trainer is None else self._trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, StepSchedule):
                config.scheduler.set_peak(value)

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of them, too
        self, question: str, max_new_tokens: int | None = None
    ) -> str: ...
    @overload
    def generate(self, question: Sequence[str], max_new_tokens: int | None = None) -> list[str]: ...
    def generate(self, question: str | Sequence[str], max_new_tokens: int | None = None) -> str | list[str]:
        """Generate an answer to one question, or to several; see :func:`promptstage.generate`."""
        import promptstage

        return promptstage.generate(self, question, max_new_tokens)

    def saliency(
        self, question: str, layers: Sequence[int] | None = None, max_new_tokens: int | None = None
    ) -> "Saliency":
        """Compute how information flows to the answer to a question; see :func:`promptstage.saliency`."""
        import promptstage

        return promptstage.saliency(self, question, layers, max_new_tokens)

    def setup(self, stage: str) -> None:
        if self._trainer is not None:
            check_precision(self._trainer.precision)
        if self.backbone_config.quantization == "4bit" and self.device.type == "cpu":
            raise UserError("a 4-bit backbone needs a GPU: bitsandbytes has no gradients on the CPU")
        if self.backbone_config.quantization == "int8" and self.device.type != "cpu":
            raise UserError(
                "backbone.quantization int8 is for the CPU: set --trainer.accelerator cpu, or "
                "--backbone.dtype bfloat16 on a GPU"
            )
        self.check_decoder()
        self.load_backbone()
        if stage == "fit" and self._trainer is not None:
            self.objective.check(self, getattr(self._trainer, "datamodule", None))

    def configure_model(self) -> None:
        if self._configured:
            return
        self.create_prompts()
        self._configured = True
        check_context(self)
        choose_eval_batch_size(self)
        self._shared_prefix = None  # it is on the device of now
        distribute(self, self._trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the summed loss of a micro-batch; ``on_before_optimizer_step`` divides by the tokens."""
        if not len(batch):
            # Other ranks wait for this one's gradients, and for its shard of the backbone.
            token = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
            return self.backbone.loss(token, token, self.prefix())[0] * 0
        total, tokens, sums = self.objective.loss(self, batch, self.prefix())
        self._step_sums[:2] += torch.tensor([float(total.detach()), tokens])
        for place, metric in enumerate(self.objective.metrics):
            self._step_sums[2 * place + 2 : 2 * place + 4] += torch.tensor(sums.get(metric, (0.0, 0.0)))
        return total

    def _no_sums(self) -> Tensor:
        """Return the sums of an optimizer step: loss and tokens, then value and number of each metric."""
        return torch.zeros(2 + 2 * len(self.objective.metrics), dtype=torch.float64)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Weight gradients by token, so that a step does not depend on how its examples are split.

        Lightning divides each micro-batch's loss by their number and averages gradients over ranks; both are
        undone, and the sum is divided by the tokens of all micro-batches on all ranks.
        """
        overflow = gradients_overflow(self.trained_parameters()).to(self.device)
        local = torch.cat([self._step_sums.to(self.device, torch.float32), overflow[None]])
        *sums, overflow = self.trainer.strategy.reduce(local, reduce_op="sum")
        loss, tokens = sums[:2]
        check_step(self, float(loss), bool(overflow))
        self.log("train/loss", loss / tokens, prog_bar=True)
        for metric, value, number in zip(self.objective.metrics, sums[2::2], sums[3::2], strict=True):
            self.log(metric, value / number)
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size / tokens
        for parameter in self.trained_parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        self._step_sums = self._no_sums()
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if self.trainer.global_step % every == 0:
            norm = torch.stack([p.detach().norm() for p in self.trained_parameters()]).norm()
            self.log("train/prompt_norm", norm)
            self.log("train/lr", optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        parameters = self.trained_parameters()
        check_trained_dtypes(self.named_parameters())
        if not parameters:
            raise UserError(f"{type(self).__name__} has nothing to train: use 'test' or 'validate'")
        total = self.trainer.estimated_stepping_batches
        optimizer, schedule = self.optimizer_config.build(parameters, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        self.text_settings = text_settings_of(data) or self.text_settings
        if self.trainer.max_steps == 0:
            return
        trained = sum(parameter.numel() for parameter in self.trained_parameters())
        frozen = sum(parameter.numel() for parameter in self.parameters()) - trained
        rank_zero_info(
            f"{type(self).__name__} on '{self.backbone_config.name}': {trained:,} parameters trained, "
            f"{frozen:,} frozen{''.join(f', {name} {value}' for name, value in self.structure().items())}"
        )
        if self.trainer.precision == "bf16-mixed" and self.backbone.dtype == torch.float32:
            rank_zero_info(
                "bf16-mixed rounds the backbone's float32 weights in each pass: --backbone.dtype bfloat16 "
                "does it once, and halves their memory"
            )

    def on_train_end(self) -> None:
        check_state(self, {"state_dict": self.state_dict()})

"""The loop all methods share: loss, generation, grading, optimiser and checkpoints.

Logged values: ``train/loss`` (nats per trained token), ``train/prompt_norm``, ``train/lr``, ``val/loss``,
``val/accuracy``, ``test/accuracy`` and their Wilson bounds ``.../accuracy_low`` and ``_high``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import SumMetric

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.callback_states import restored_states, scores_only
from promptstage.lightning_modules.checkpointing import check_keys, describe, verify
from promptstage.lightning_modules.context import check_context
from promptstage.lightning_modules.distribution import distribute
from promptstage.lightning_modules.evaluation import Answers, Decoding, Record, answer, no_answers
from promptstage.lightning_modules.finiteness import (
    check_evaluation,
    check_state,
    check_step,
    gradients_overflow,
)
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.positions import check_virtual_tokens
from promptstage.lightning_modules.precision import check_precision, check_trained_dtypes
from promptstage.lightning_modules.training_state import check_numbers, stored_random_state
from promptstage.utilities.errors import UserError
from promptstage.utilities.intervals import wilson_interval


class SoftPromptModule(L.LightningModule, ABC):
    """A trainable prompt over a frozen backbone.

    A method says what is trained (``configure_prompts``) and what content attends to (``prefix``);
    everything else is here.
    """

    backbone: Backbone
    visible_from: int = 0
    visible_until: int | None = None
    _ddp_params_and_buffers_to_ignore: list[str]  # torch's name

    def __init__(self, backbone: BackboneConfig, optimizer: OptimizerConfig, val_generations: int) -> None:
        super().__init__()
        if val_generations < 0:
            raise UserError(f"val_generations must not be negative, not {val_generations}")
        self.backbone_config = backbone
        self.optimizer_config = optimizer
        self.val_generations = val_generations
        # By default torchmetrics drops NaN from a sum: a diverged loss would be 0.
        self.loss_sum, self.token_sum = SumMetric(nan_strategy="disable"), SumMetric()
        self.correct_sum, self.answered_sum, self.broken_sum = SumMetric(), SumMetric(), SumMetric()
        self.decoding = Decoding()
        self.validation_tags = ("val/loss", "val/accuracy")  # tags of a validation's metrics
        self._step_loss, self._step_tokens = 0.0, 0
        # Whether this process was asked to end training, and to come back later; whether any was, of which
        # all learn in a step.
        self.stop_asked, self.requeue_asked = False, False
        self.stop_agreed, self.requeue_agreed = False, False
        self._shared_prefix: Prefix | None = None
        self._configured = False

    @abstractmethod
    def configure_prompts(self, generator: torch.Generator) -> None:
        """Create what is trained, float32; the backbone is loaded. Draw from ``generator`` alone."""

    def vectors(self) -> list[Tensor]:
        """The soft prompt's vectors, (m, parts, width) for each stage; none without a prompt.

        Parts are what has a scale of its own: one for a prompt, each layer's keys and values for a prefix.
        """
        return []

    def prefix_of(self, vectors: list[Tensor], dropped: Tensor | None = None) -> Prefix | None:
        """What content attends to, for such vectors; ``None`` for nothing.

        Args:
            vectors: as :meth:`vectors`, or (b, m, parts, width) each for one prompt an example.
            dropped: (b,) int64, which of all stages' virtual tokens nothing sees; -1: none.
        """
        return None

    def prefix(self) -> Prefix | None:
        """What content attends to, with gradient to what is trained; ``None`` for nothing."""
        return self.prefix_of(self.vectors())

    def structure(self) -> dict[str, object]:
        """What must agree between a checkpoint and this module beside keys and shapes."""
        return {}

    def exported(self) -> dict[str, Tensor]:
        """The trained prompt as it is used, without what only training needs."""
        return dict(self.state_dict())

    def adopt(self, checkpoint: Mapping[str, Any]) -> None:
        """Take from a checkpoint what has to be known before prompts are created; most methods: nothing.

        The command line calls this before ``fit`` resumes and before ``test``; its tensors are loaded later.
        """

    # --- set-up -----------------------------------------------------------------------------------

    def load_backbone(self) -> Backbone:
        """The backbone, loaded on the first call."""
        if not hasattr(self, "backbone"):
            check_virtual_tokens(self)
            self.backbone = Backbone(self.backbone_config)
        return self.backbone

    def setup(self, stage: str) -> None:
        if self._trainer is not None:
            check_precision(self._trainer.precision)
        if self.backbone_config.quantization != "none" and self.device.type == "cpu":
            raise UserError("a 4-bit backbone needs a GPU: bitsandbytes has no gradients on the processor")
        self.load_backbone()

    def configure_model(self) -> None:
        if self._configured:
            return
        # From the run's seed alone: the same start on every rank, whatever drew numbers before.
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.load_backbone()
        with torch.device("cpu"):
            self.configure_prompts(generator)
        self._configured = True
        check_context(self)
        distribute(self, self._trainer)

    def check_layers(self, what: str, layers: list[int]) -> None:
        """Raise a UserError when a layer index does not exist in the backbone."""
        for layer in layers:
            if not 0 <= layer < self.backbone.num_layers:
                raise UserError(
                    f"{what} names layer {layer}, but backbone '{self.backbone_config.name}' has layers "
                    f"0 to {self.backbone.num_layers - 1}"
                )

    # --- training ---------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Summed loss of the micro-batch; ``on_before_optimizer_step`` divides by the step's tokens."""
        if not len(batch):
            # The other processes wait for this one's gradients, and for its part of the backbone.
            token = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
            return self.backbone.loss(token, token, self.prefix())[0] * 0
        total, _ = self.backbone.loss(batch.gold.input_ids, batch.gold.labels, self.prefix())
        self._step_loss += float(total.detach())
        self._step_tokens += int((batch.gold.labels != -100).sum())
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Weight by token: the step does not depend on how its examples were split.

        Lightning divided each micro-batch by their number and averaged gradients over ranks; both are
        undone, and the sum is divided by the tokens of all micro-batches on all ranks.
        """
        asked = (self.stop_asked, self.requeue_asked)
        local = torch.tensor([self._step_loss, self._step_tokens, *asked, 0.0], device=self.device)
        local[-1] = gradients_overflow(self.trained_parameters())
        loss, tokens, stop, requeue, overflow = self.trainer.strategy.reduce(local, reduce_op="sum")
        self.stop_agreed, self.requeue_agreed = bool(stop), bool(requeue)
        check_step(self, float(loss), bool(overflow))
        self.log("train/loss", loss / tokens, prog_bar=True)
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size / tokens
        for parameter in self.trained_parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        self._step_loss, self._step_tokens = 0.0, 0
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if self.trainer.global_step % every == 0:
            norm = torch.stack([p.detach().norm() for p in self.trained_parameters()]).norm()
            self.log("train/prompt_norm", norm)
            self.log("train/lr", optimizer.param_groups[0]["lr"])

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Everything the optimiser may change."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        parameters = self.trained_parameters()
        check_trained_dtypes(self.named_parameters())
        if not parameters:
            raise UserError(f"{type(self).__name__} has nothing to train: use 'test' or 'validate'")
        total = self.trainer.estimated_stepping_batches
        optimizer, schedule = self.optimizer_config.build(parameters, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_end(self) -> None:
        check_state(self, {"state_dict": self.state_dict()})

    # --- evaluation -------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> Answers:
        prefix = self.evaluation_prefix()
        if not len(batch):
            self.backbone.shards.idle_pass()
            return self._answer(batch, prefix)
        total, _ = self.backbone.loss(batch.gold.input_ids, batch.gold.labels, prefix)
        self.loss_sum.update(total)
        self.token_sum.update((batch.gold.labels != -100).sum())
        asked = set() if self.trainer.sanity_checking else set(self.answered_ids())
        rows = [row for row, example in enumerate(batch.examples) if example.id in asked]
        return self._answer(batch.select(rows), prefix)

    def test_step(self, batch: Batch, batch_idx: int) -> Answers:
        return self._answer(batch, self.evaluation_prefix())

    def predict_step(self, batch: Batch, batch_idx: int) -> Answers:
        return self._answer(batch, self.evaluation_prefix())

    def on_validation_epoch_end(self) -> None:
        loss = self.loss_sum.compute() / self.token_sum.compute()
        loss_tag, accuracy_tag = self.validation_tags
        self.log(loss_tag, loss, prog_bar=True)
        self._log_accuracy(accuracy_tag, float(loss))

    def on_test_epoch_end(self) -> None:
        self._log_accuracy("test/accuracy")

    def on_predict_epoch_end(self) -> None:
        check_evaluation(self, "predict", None, int(self.broken_sum.compute()))

    def evaluation_prefix(self) -> Prefix | None:
        """The prefix, computed once for a whole evaluation."""
        if self._shared_prefix is None:
            self._shared_prefix = self.prefix()
        return self._shared_prefix

    def _forget_prefix(self) -> None:
        self._shared_prefix = None

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _forget_prefix
    on_validation_end = on_test_end = on_predict_end = _forget_prefix

    def answered_ids(self) -> list[str]:
        """Validation examples that are answered, not only scored: the first ones of the split."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return datamodule.example_ids("validation")[: self.val_generations]

    def _answer(self, batch: Batch, prefix: Prefix | None) -> Answers:
        """Answer the batch, if there is anything in it, and count what is correct."""
        if not len(batch):
            self.backbone.shards.go_along()
            return no_answers()
        try:
            answers = answer(self.backbone, batch, prefix, self.decoding)
        except FloatingPointError:
            # All ranks fail together at the end of the epoch; until then others need this one's passes.
            self.backbone.shards.go_along()
            self.broken_sum.update(len(batch))
            return no_answers()
        self.correct_sum.update(sum(record.correct for record in answers["records"]))
        self.answered_sum.update(len(answers["records"]))
        return answers

    def correct_record(self, answers: Answers, row: int, record: Record) -> None:
        """Put another record in the place of one that was counted, within its epoch."""
        self.correct_sum.update(int(record.correct) - int(answers["records"][row].correct))
        answers["records"][row] = record

    def _log_accuracy(self, tag: str, loss: float | None = None) -> None:
        answered, correct = int(self.answered_sum.compute()), int(self.correct_sum.compute())
        check_evaluation(self, tag.partition("/")[0], loss, int(self.broken_sum.compute()))
        if answered:
            low, high = wilson_interval(correct, answered)
            self.log(tag, correct / answered, prog_bar=True)
            self.log_dict({f"{tag}_low": low, f"{tag}_high": high})
        for metric in (self.loss_sum, self.token_sum, self.correct_sum, self.answered_sum):
            metric.reset()

    # --- checkpoints ------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """What is trained, and nothing of the frozen backbone."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        full = super().state_dict(*args, **kwargs)
        return {key: full[key] for key in full if key in trained or not key.startswith("backbone.")}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load trained tensors; keys and shapes must agree exactly, whatever ``strict`` says.

        Raises:
            UserError: naming the first key or shape that differs.
        """
        check_keys(self.state_dict(), state_dict)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["promptstage"] = describe(self)
        checkpoint["rng"] = torch.get_rng_state()
        if self._trainer is not None:
            check_state(self, checkpoint)
            checkpoint["callbacks"] = scores_only(checkpoint.get("callbacks", {}), self._trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        verify(self, checkpoint)
        check_numbers(checkpoint, "the checkpoint")
        self._rng = stored_random_state(checkpoint.get("rng"))
        if self._trainer is not None:
            checkpoint["callbacks"] = restored_states(checkpoint.get("callbacks"), self._trainer)

    def on_fit_start(self) -> None:
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

    def on_train_start(self) -> None:
        if hasattr(self, "_rng"):
            torch.set_rng_state(self._rng)

"""Validation, test and prediction: losses, generations and their grades, counted over all ranks."""

from typing import Any

from torchmetrics import SumMetric

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.evaluation import Answers, Decoding, Record, answer, no_answers
from promptstage.lightning_modules.finiteness import check_evaluation
from promptstage.lightning_modules.prompt_module import BackboneLike, PromptModule
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.intervals import wilson_interval


class EvaluationSteps(PromptModule):
    """Evaluation loops of a prompt, each example generated and graded exactly once.

    Logged values: ``val/loss`` (nats per token), ``val/accuracy`` and ``test/accuracy``, and the 95 % Wilson
    interval of each accuracy as ``.../accuracy_low`` and ``.../accuracy_high``.

    Attributes:
        decoding: what callbacks request of the generations.
        validation_tags: names under which a validation logs its loss and its accuracy.
        val_generations: number of validation questions to generate for; losses are of all.
    """

    def __init__(self, backbone: BackboneLike, val_generations: int) -> None:
        super().__init__(backbone)
        check_minimum({"val_generations": val_generations}, 0)
        self.val_generations = val_generations
        # By default torchmetrics drops NaN from a sum: a diverged loss would be 0.
        self.loss_sum, self.token_sum = SumMetric(nan_strategy="disable"), SumMetric()
        self.correct_sum, self.answered_sum, self.broken_sum = SumMetric(), SumMetric(), SumMetric()
        self.decoding = Decoding()
        self.validation_tags = ("val/loss", "val/accuracy")
        self._shared_prefix: Prefix | None = None

    def validation_step(self, batch: Batch, batch_idx: int) -> Answers:
        prefix = self.evaluation_prefix()
        if not len(batch):
            self.backbone.shards.idle_pass()
            return self._generate(batch, prefix)
        total, _ = self.backbone.loss(batch.gold.input_ids, batch.gold.labels, prefix)
        self.loss_sum.update(total)
        self.token_sum.update((batch.gold.labels != -100).sum())
        generated = set() if self.trainer.sanity_checking else set(self.answered_ids())
        rows = [row for row, example in enumerate(batch.examples) if example.id in generated]
        return self._generate(batch.select(rows), prefix)

    def test_step(self, batch: Batch, batch_idx: int) -> Answers:
        return self._generate(batch, self.evaluation_prefix())

    def predict_step(self, batch: Batch, batch_idx: int) -> Answers:
        return self._generate(batch, self.evaluation_prefix())

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
        """Return the prefix, computed once for a whole evaluation."""
        if self._shared_prefix is None:
            self._shared_prefix = self.prefix()
        return self._shared_prefix

    def _forget_prefix(self) -> None:
        self._shared_prefix = None

    def _begin(self) -> None:
        self._forget_prefix()
        # Their tensors belong to the mode they were made in: an inference tensor cannot be updated outside.
        for metric in self._counters():
            metric.reset()

    def _counters(self) -> tuple[SumMetric, ...]:
        return self.loss_sum, self.token_sum, self.correct_sum, self.answered_sum, self.broken_sum

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _begin
    on_validation_end = on_test_end = on_predict_end = _forget_prefix

    def answered_ids(self) -> list[str]:
        """Return the ids of validation examples to generate for: the first ones of the split."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return datamodule.example_ids("validation")[: self.val_generations]

    def _generate(self, batch: Batch, prefix: Prefix | None) -> Answers:
        """Generate for a batch, which may be empty, grade it, and count what is correct."""
        if not len(batch):
            self.backbone.shards.join_remaining_passes()
            return no_answers()
        try:
            answers = answer(self.backbone, batch, prefix, self.decoding)
        except FloatingPointError:
            # All ranks fail together at the end of the epoch; until then others need this one's passes.
            self.backbone.shards.join_remaining_passes()
            self.broken_sum.update(len(batch))
            return no_answers()
        self.correct_sum.update(sum(record.correct for record in answers["records"]))
        self.answered_sum.update(len(answers["records"]))
        return answers

    def correct_record(self, answers: Answers, row: int, record: Record) -> None:
        """Replace a record that was counted, within its epoch."""
        self.correct_sum.update(int(record.correct) - int(answers["records"][row].correct))
        answers["records"][row] = record

    def _log_accuracy(self, tag: str, loss: float | None = None) -> None:
        answered, correct = int(self.answered_sum.compute()), int(self.correct_sum.compute())
        check_evaluation(self, tag.partition("/")[0], loss, int(self.broken_sum.compute()))
        if answered:
            low, high = wilson_interval(correct, answered)
            self.log(tag, correct / answered, prog_bar=True)
            self.log_dict({f"{tag}_low": low, f"{tag}_high": high})
        for metric in self._counters():
            metric.reset()

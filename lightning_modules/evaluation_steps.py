"""Validation, test and prediction: losses, decoded records and their counts over all ranks."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor
from torchmetrics import SumMetric

from promptstage.datamodules.encoding import IGNORED, Batch
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.decoding.calls import Ledger, decoder_faults
from promptstage.lightning_modules.decoding.decoder import Decoder, Generated
from promptstage.lightning_modules.decoding.engines import Engine, Greedy
from promptstage.lightning_modules.decoding.label_words import check_decoder, default_decoder
from promptstage.lightning_modules.decoding.records import Record
from promptstage.lightning_modules.finiteness import check_evaluation
from promptstage.lightning_modules.functional.statistics import wilson_interval
from promptstage.lightning_modules.prompt_module import BackboneLike, PromptModule
from promptstage.utilities.checks import check_minimum


class Decoded(TypedDict):
    """Output of an evaluation step.

    Attributes:
        records: records that the decoder finished, of this batch or of earlier ones.
        generated: generations that were finished, of this batch or of earlier ones, by example id; before any
            correction.
    """

    records: list[Record]
    generated: Mapping[str, Generated]


class EvaluationSteps(PromptModule):
    """Evaluation loops of a prompt, each example decoded and graded exactly once.

    Logged values: ``val/loss`` (nats per token), ``val/accuracy`` and ``test/accuracy``, and the 95 % Wilson
    interval of each accuracy as ``.../accuracy_low`` and ``.../accuracy_high``.

    Attributes:
        chosen_decoder: decoder that replaces the default one; None: the default.
        restored: records of an interrupted test that this one continues, counted on rank 0.
        validation_tags: names under which a validation logs its loss and its accuracy.
        val_generations: number of validation questions to generate for; losses are of all.
    """

    def __init__(self, backbone: BackboneLike, val_generations: int) -> None:
        super().__init__(backbone)
        check_minimum({"val_generations": val_generations}, 0)
        self.val_generations = val_generations
        # By default torchmetrics drops NaN from a sum: a diverged loss would be 0.
        self.loss_sum, self.token_sum = SumMetric(nan_strategy="disable"), SumMetric()
        self.correct_sum, self.answered_sum, self.lost_sum = SumMetric(), SumMetric(), SumMetric()
        self.chosen_decoder: Decoder | None = None
        self._default_decoder: Decoder = Greedy()
        self.restored: list[Record] = []
        self._ledger = Ledger()
        self.validation_tags = ("val/loss", "val/accuracy")

    def trained_labels(self, batch: Batch) -> Tensor:
        """Return the labels (B, n) of ``batch.gold`` that the loss counts; -100 at other tokens."""
        return batch.gold.labels

    def loss_of(self, batch: Batch, prefix: Prefix | None) -> tuple[Tensor, int]:
        """Compute the summed cross-entropy of a batch's labels, and their number."""
        labels = self.trained_labels(batch)
        with self.backbone.hooked(*self.hooks_of(batch, batch.gold)):
            total, _ = self.backbone.loss(batch.gold.input_ids, labels, prefix)
        return total, int((labels != IGNORED).sum())

    @property
    def decoder(self) -> Decoder:
        """The decoder that makes the answers; a callback may replace it before an evaluation.

        By default, greedy decoding, or prediction over label words if the data module asks for it.
        """
        if self.chosen_decoder is not None:
            return self.chosen_decoder
        cls = default_decoder(getattr(self._trainer, "datamodule", None))
        if type(self._default_decoder) is not cls:
            self._default_decoder = cls()
        return self._default_decoder

    @decoder.setter
    def decoder(self, decoder: Decoder) -> None:
        self.chosen_decoder = None if decoder is self._default_decoder else decoder

    def check_decoder(self) -> None:
        """Check that a chosen decoder can follow the data's option ``prediction``; raises a UserError."""
        if self.chosen_decoder is not None:
            check_decoder(self.chosen_decoder, getattr(self._trainer, "datamodule", None))

    def validation_step(self, batch: Batch, batch_idx: int) -> Decoded:
        sanity = self.trainer.sanity_checking
        batches = self.trainer.num_sanity_val_batches if sanity else self.trainer.num_val_batches
        last = batch_idx + 1 == batches[0]
        if not len(batch):
            self.backbone.shards.idle_pass()
            return self._decode(batch, last)
        total, count = self.loss_of(batch, self.evaluation_prefix())
        self.loss_sum.update(total)
        self.token_sum.update(count)
        generated = set() if sanity else set(self.answered_ids())
        rows = [row for row, example in enumerate(batch.examples) if example.id in generated]
        return self._decode(batch.select(rows), last)

    def test_step(self, batch: Batch, batch_idx: int) -> Decoded:
        return self._decode(batch, batch_idx + 1 == self.trainer.num_test_batches[0])

    def predict_step(self, batch: Batch, batch_idx: int) -> Decoded:
        return self._decode(batch, batch_idx + 1 == self.trainer.num_predict_batches[0])

    def on_validation_epoch_end(self) -> None:
        loss = self.loss_sum.compute() / self.token_sum.compute()
        loss_tag, accuracy_tag = self.validation_tags
        self.log(loss_tag, loss, prog_bar=True)
        self._log_accuracy(accuracy_tag, float(loss))

    def on_test_epoch_end(self) -> None:
        self._log_accuracy("test/accuracy")

    def on_predict_epoch_end(self) -> None:
        check_evaluation(self, "predict", None, int(self.lost_sum.compute()))

    def _begin(self) -> None:
        self._shared_prefix = None
        # Their tensors belong to the mode they were made in: an inference tensor cannot be updated outside.
        for metric in self._counters():
            metric.reset()
        self._ledger = Ledger()
        with decoder_faults(self.decoder, "begin"):
            self.decoder.begin(self)
        if isinstance(self.decoder, Engine):
            self.decoder.continuous = True
        self._count(self.restored)

    def _end(self) -> None:
        self._shared_prefix = None

    def _counters(self) -> tuple[SumMetric, ...]:
        return self.loss_sum, self.token_sum, self.correct_sum, self.answered_sum, self.lost_sum

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _begin
    on_validation_end = on_test_end = on_predict_end = _end

    def answered_ids(self) -> list[str]:
        """Return the ids of validation examples to generate for: the first ones of the split."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return datamodule.example_ids("validation")[: self.val_generations]

    def _decode(self, batch: Batch, last: bool) -> Decoded:
        """Decode a batch, which may be empty, and count the records that are finished.

        Raises:
            DecoderFault: if the user's decoder fails, or does not return one record for each example.
        """
        decoder, ledger = self.decoder, self._ledger
        records: list[Record] = []
        generated: dict[str, Generated] = {}
        ledger.add(batch)
        try:
            with decoder_faults(decoder, "generate", batch):
                returned = decoder.generate(batch)
            records = ledger.check(decoder, "generate", returned, batch)
            generated |= getattr(decoder, "generated", {})
            if last:
                with decoder_faults(decoder, "flush"):
                    returned = decoder.flush()
                records += ledger.check(decoder, "flush", returned)
                generated |= getattr(decoder, "generated", {})
        except FloatingPointError:
            # All ranks fail together at the end of the epoch; until then others need this one's passes.
            ledger.allow_missing()
        if last:
            self.lost_sum.update(ledger.finish(decoder))
        self._count(records)
        return {"records": records, "generated": generated}

    def _count(self, records: Sequence[Record]) -> None:
        self.correct_sum.update(sum(record.correct for record in records))
        self.answered_sum.update(len(records))

    def _log_accuracy(self, tag: str, loss: float | None = None) -> None:
        answered, correct = int(self.answered_sum.compute()), int(self.correct_sum.compute())
        check_evaluation(self, tag.partition("/")[0], loss, int(self.lost_sum.compute()))
        if answered:
            low, high = wilson_interval(correct, answered)
            self.log(tag, correct / answered, prog_bar=True)
            self.log_dict({f"{tag}_low": low, f"{tag}_high": high})
        for metric in self._counters():
            metric.reset()

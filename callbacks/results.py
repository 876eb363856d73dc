"""One record per example, and a summary with an interval.

Writes ``results.jsonl`` and ``summary.json``; to TensorBoard goes a page of sample generations
(``{split}/samples``) and, at the end of a test, the hyperparameters once with ``test/accuracy``.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.examples import data_of, gather_by_id
from lightning_modules.base import SoftPromptModule
from lightning_modules.evaluation import Record
from utilities.files import write_text
from utilities.intervals import wilson_interval

SAMPLES = 8


def gather_records(records: Sequence[Record], ids: Sequence[str], complete: bool = True) -> list[Record]:
    """All ranks' records in the order of ``ids``, each example once.

    Args:
        complete: every id must have a record; not so when the user limits the batches.

    Raises:
        RuntimeError: when an example has no record but should.
    """
    found = gather_by_id(records, ids)
    there = {record.id for record in found}
    missing = [name for name in ids if name not in there]
    if missing and complete:
        raise RuntimeError(f"{len(missing)} of {len(ids)} examples have no record, first {missing[0]}")
    return found


class Results(L.Callback):
    """Collects the records of ``validate``, ``test``, ``predict`` and ``fit``'s validations.

    Args:
        folder: where ``results.jsonl`` and ``summary.json`` go; ``None`` writes no file (in ``fit``).
        hyperparameters: flat names and values shown beside the test metric.
    """

    def __init__(self, folder: Path | None, hyperparameters: dict[str, Any]) -> None:
        self.folder = folder
        self.hyperparameters = hyperparameters
        # Each batch's own list: a callback that corrects answers puts others into it.
        self.batches: list[list[Record]] = []
        self.started = 0.0

    def _start(self, *args: Any) -> None:
        self.batches = []
        self.started = time.monotonic()

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _start  # type: ignore[assignment]  # fewer arguments

    def _collect(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self.batches.append(outputs["records"])

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _collect  # type: ignore[assignment]  # fewer arguments

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, SoftPromptModule)
        self._finish(trainer, pl_module, "val", pl_module.answered_ids())

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SoftPromptModule)
        self._finish(trainer, pl_module, "test", data_of(trainer).example_ids("test"))

    def records(self, ids: Sequence[str], complete: bool) -> list[Record]:
        """All processes' records in the order of ``ids``, as :func:`gather_records` gives them."""
        return gather_records([record for batch in self.batches for record in batch], ids, complete)

    def _finish(self, trainer: L.Trainer, module: SoftPromptModule, split: str, ids: Sequence[str]) -> None:
        limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
        # 1.0 is everything, 1 is one batch.
        records = self.records(ids, complete=isinstance(limit, float) and limit == 1.0)
        if not trainer.is_global_zero or not records:
            return
        seconds = time.monotonic() - self.started
        data = data_of(trainer)
        measured: dict[str, Any] = {"dataset": data.name, "split": split, "template": data.template}
        measured["checkpoint"] = None if trainer.ckpt_path is None else str(trainer.ckpt_path)
        names = [getattr(callback, "correction", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]  # set by a connector
        measured["correction"] = next(filter(None, names), None)
        summary = measured | summarise(module, records, seconds)
        if self.folder is not None:
            lines = (json.dumps(record._asdict(), ensure_ascii=False) for record in records)
            write_text(self.folder / "results.jsonl", "\n".join(lines) + "\n")
            write_text(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
            print(
                f"{summary['correct']} of {summary['examples']} correct: accuracy {summary['accuracy']:.3f} "
                f"(95 % interval {summary['accuracy_low']:.3f} to {summary['accuracy_high']:.3f}), "
                f"{summary['without_answer']} without an answer; "
                f"records in {self.folder}"
            )
        self._to_tensorboard(trainer, split, records, summary)

    def _to_tensorboard(
        self, trainer: L.Trainer, split: str, records: Sequence[Record], summary: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                continue
            logger.experiment.add_text(f"{split}/samples", sample_page(records), trainer.global_step)
            if split == "test":
                logger.log_hyperparams(self.hyperparameters, {"test/accuracy": summary["accuracy"]})
                logger.save()


def summarise(module: SoftPromptModule, records: Sequence[Record], seconds: float) -> dict[str, Any]:
    """Counts, accuracy with its 95 % Wilson interval, tokens and time of an evaluation."""
    correct = sum(record.correct for record in records)
    low, high = wilson_interval(correct, len(records))
    new_tokens = sum(record.new_tokens for record in records)
    return {
        "method": type(module).__name__,
        "backbone": module.backbone_config.name,
        "fingerprint": module.backbone.fingerprint,
        "trained_parameters": sum(p.numel() for p in module.trained_parameters()),
        "examples": len(records),
        "correct": correct,
        "accuracy": correct / len(records),
        "accuracy_low": low,
        "accuracy_high": high,
        "without_answer": sum(record.prediction is None for record in records),
        "new_tokens": new_tokens,
        "seconds": round(seconds, 3),
        "new_tokens_per_second": round(new_tokens / seconds, 1),
    }


def sample_page(records: Sequence[Record]) -> str:
    """A Markdown page of the first few questions, generations and grades."""
    parts = []
    for record in records[:SAMPLES]:
        mark = "correct" if record.correct else "wrong"
        quoted = "\n".join(f"    {line}" for line in record.generation.splitlines())
        parts.append(
            f"**{record.id}** {mark}: predicted `{record.prediction}`, reference `{record.reference}`\n\n"
            f"{record.question}\n\n{quoted}\n"
        )
    return "\n---\n\n".join(parts)


def write_answers(records: Sequence[Record], target: str) -> None:
    """Answers to free questions as JSON lines: id, question, generation, prediction.

    Args:
        target: a file, or ``-`` for standard output.
    """
    lines = [
        json.dumps({name: getattr(record, name) for name in ("id", "question", "generation", "prediction")})
        for record in records
    ]
    text = "".join(f"{line}\n" for line in lines)
    if target == "-":
        print(text, end="", flush=True)
    else:
        write_text(Path(target), text)

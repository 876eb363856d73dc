"""Results of an evaluation: one record per example, and a summary with a confidence interval.

Writes ``results.jsonl`` and ``summary.json``, and ``results.partial.jsonl`` during the evaluation. Logs
sample generations as ``{split}/samples``.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.examples import data_of, gather_by_id
from promptstage.callbacks.run.hyperparameters import correction_of
from promptstage.callbacks.run.loggers import code_block, log_page, log_scalars, set_logged_step
from promptstage.callbacks.run.partial_lines import PartialLines, write_or_rescue
from promptstage.callbacks.run.resumed import (
    check_identity,
    identity_of,
    not_resumable,
    read_partial,
    record_of,
    write_identity,
)
from promptstage.grading.grades import coverage
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.calls import decoder_faults
from promptstage.lightning_modules.decoding.faults import DecoderFault
from promptstage.lightning_modules.decoding.records import Record
from promptstage.lightning_modules.decoding.voting import vote_summary
from promptstage.lightning_modules.functional.statistics import wilson_interval
from promptstage.lightning_modules.selection import selection_of
from promptstage.lightning_modules.visibility import visible_layers
from promptstage.utilities.errors import shown_path
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.recorded import recorded_settings

SAMPLES = 8  # examples on the page of generations


def gather_records(records: Sequence[Record], ids: Sequence[str], complete: bool = True) -> list[Record]:
    """Gather the records of all ranks in the order of ``ids``, each example once.

    Args:
        complete: require a record for every id; False if the number of batches is limited.

    Raises:
        RuntimeError: if a required record is missing.
    """
    gathered = gather_by_id(records, ids)
    present = {record.id for record in gathered}
    missing = [name for name in ids if name not in present]
    if missing and complete:
        raise RuntimeError(f"{len(missing)} of {len(ids)} examples have no record, first {missing[0]}")
    return gathered


class Results(L.Callback):
    """Collection of the records of ``validate``, ``test``, ``predict`` and of validations in ``fit``.

    Args:
        folder: folder for ``results.jsonl`` and ``summary.json``; None: no files (in ``fit``).
        arguments: command line, to resume an interrupted test by.
    """

    def __init__(self, folder: Path | None, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self.arguments = arguments
        self.collected: list[Record] = []
        self.restored: list[Record] = []
        self.selection: dict[str, Any] = {}
        self._tests, self._resumable = False, True
        self.partial: PartialLines | None = None
        self.started = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.folder is not None:
            self.partial = PartialLines(self.folder / "results.jsonl", trainer)
            self._tests = stage == "test"
            if self._tests:
                self._restore(trainer)

    def _restore(self, trainer: L.Trainer) -> None:
        """Read the records of an interrupted test; if no question is left, the last one is answered again."""
        assert self.partial is not None
        data, path = data_of(trainer), self.partial.path
        lines = {line["id"]: line for line in read_partial(path)}
        self.restored = [record_of(line, f"record {name} in {path.parent}") for name, line in lines.items()]
        if not self.restored:
            return
        ids = [record.id for record in self.restored]
        data.skip(ids[:-1] if len(ids) == len(data.example_ids("test")) else ids)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Describe the test, or check that it is the one that was interrupted."""
        assert isinstance(pl_module, SoftPromptModule)
        data = data_of(trainer)
        if self.folder is None or self.partial is None:
            return
        identity = identity_of(trainer, pl_module, "test", self.arguments)
        if reason := not_resumable(identity):
            self._resumable = False
            rank_zero_info(f"warning: this test cannot be resumed if it is interrupted: {reason}")
        if self.restored:
            check_identity(identity, self.partial.path.parent, pl_module.backbone)
            skipped = data.skipped or set()
            self.restored = [record for record in self.restored if record.id in skipped]
            pl_module.restored = self.restored if trainer.is_global_zero else []
            rank_zero_info(f"{len(self.restored)} of {len(data.example_ids('test'))} records are restored")
        elif trainer.is_global_zero:
            write_identity(identity, self.folder)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Remove the partial files, which no failed evaluation reaches."""
        if self.partial is not None and trainer.is_global_zero:
            self.partial.remove()
        if stage == "test":
            data_of(trainer).skipped, pl_module.restored = None, []

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        set_logged_step(trainer, checkpoint["global_step"])
        assert isinstance(pl_module, SoftPromptModule)
        self.selection = selection_of(checkpoint, Path(str(trainer.ckpt_path)).name, pl_module.monitor[0])

    def _start(self, *args: Any) -> None:
        self.collected = list(self.restored)
        self.started = time.monotonic()

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _start  # type: ignore[assignment]  # fewer arguments

    def _collect(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self.collected += outputs["records"]
        if self.partial is not None:
            self.partial.append(map(record_line, outputs["records"]))

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _collect  # type: ignore[assignment]  # fewer arguments

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if self.partial is not None:
            self.partial.close()
            if text := self.partial_results(isinstance(exception, DecoderFault)):
                rank_zero_info(text)

    def partial_results(self, faulty: bool = False) -> str:
        """Return a clause naming the file of an incomplete evaluation's records; empty without any.

        Args:
            faulty: the decoder has a mistake.
        """
        if self.partial is None or not self.partial.count:
            return ""
        folder = self.partial.path.parent
        when = "once the decoder is corrected, " if faulty else ""
        command = f"; {when}resume with: promptstage test --resume {shown_path(folder)}"
        again = command if self._tests and self._resumable else ""
        return f"{self.partial.count} records are in {shown_path(self.partial.own)}{again}"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, SoftPromptModule)
        self._finish(trainer, pl_module, "val", pl_module.answered_ids())

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SoftPromptModule)
        self._finish(trainer, pl_module, "test", data_of(trainer).example_ids("test"))

    def records(self, ids: Sequence[str], complete: bool) -> list[Record]:
        """Return the records of all ranks as :func:`gather_records`."""
        return gather_records(self.collected, ids, complete)

    def _finish(self, trainer: L.Trainer, module: SoftPromptModule, split: str, ids: Sequence[str]) -> None:
        limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
        if self.partial is not None:
            self.partial.close()
        # 1.0: all batches; 1: a single one.
        records = self.records(ids, complete=isinstance(limit, float) and limit == 1.0)
        if not trainer.is_global_zero or not records:
            return
        seconds = time.monotonic() - self.started
        data = data_of(trainer)
        used = data.used_for(split)
        measured: dict[str, Any] = {"dataset": used.name, "split": split, "template": data.template}
        measured["questions"] = len(ids)
        if split == "test":
            seed = None if used.perturbation == "none" else used.perturbation_seed
            measured |= {"perturbation": used.perturbation, "perturbation_seed": seed}
        measured["checkpoint"] = None if trainer.ckpt_path is None else str(trainer.ckpt_path)
        if split == "test":
            measured |= self.selection
        measured["correction"] = correction_of(trainer)
        summary = measured | summarize(module, records, seconds)
        summary["cut_at_limit"] = cut_at_limit(records, data.generation_limit, data.stop)
        if self.restored:
            summary["restored"] = len(self.restored)
        if self.folder is not None:
            self._write(records, summary)
        prefix = module.validation_tags[0].partition("/")[0]  # "calibrate" in a calibration
        log_page(trainer, f"{prefix if split == 'val' else split}/samples", samples(records))
        if split == "test":
            log_scalars(trainer, {"test/without_answer": summary["without_answer"] / summary["examples"]})

    def _write(self, records: Sequence[Record], summary: dict[str, Any]) -> None:
        assert self.folder is not None
        corrected = " with every answer corrected" if summary["correction"] == "DPC, mode all" else ""
        part = coverage(summary["examples"], summary["questions"])
        partial = f" (the first {part}: a partial evaluation)" if part else ""
        count = summary["cut_at_limit"]
        cut = f", {count} generations cut at max_new_tokens" if count else ""
        print(
            f"{summary['correct']} of {summary['examples']} correct{corrected}{partial}: accuracy "
            f"{summary['accuracy']:.3f} (95 % interval {summary['accuracy_low']:.3f} to "
            f"{summary['accuracy_high']:.3f}), {summary['without_answer']} without an answer{cut}; "
            f"records in {shown_path(self.folder)}"
        )
        write_or_rescue(self.folder / "results.jsonl", map(record_line, records))
        write_text(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def summarize(module: SoftPromptModule, records: Sequence[Record], seconds: float) -> dict[str, Any]:
    """Compute counts, accuracy with its 95 % Wilson interval, tokens and time of an evaluation."""
    correct = sum(record.correct for record in records)
    low, high = wilson_interval(correct, len(records))
    new_tokens = sum(record.new_tokens for record in records)
    votes = vote_summary(records) if records[0].samples else {}
    with decoder_faults(module.decoder, "summary"):
        decoder = recorded_settings(module.decoder)
    return {
        "method": type(module).__name__,
        "backbone": module.backbone_config.name,
        "fingerprint": module.backbone.fingerprint,
        "dtype": str(module.backbone.dtype).removeprefix("torch."),
        "quantization": module.backbone_config.quantization,
        "visible_layers": visible_layers(module),
        "trained_parameters": sum(p.numel() for p in module.trained_parameters()),
        "examples": len(records),
        "correct": correct,
        "accuracy": correct / len(records),
        "accuracy_low": low,
        "accuracy_high": high,
        **harness_accuracies(records),
        "without_answer": sum(record.prediction is None for record in records),
        "new_tokens": new_tokens,
        "seconds": round(seconds, 3),
        "new_tokens_per_second": round(new_tokens / seconds, 1),
        "decoder": decoder,
        "hooks": [recorded_settings(hook) for hook in module.backbone.hooks],
        **votes,
        **module.reported(),
    }


def cut_at_limit(records: Sequence[Record], max_new_tokens: int, stop: Sequence[str]) -> int:
    """Count the generations, samples included, that the generation limit has ended."""
    made = [part for record in records for part in record.samples or (record,)]
    return sum(
        part.new_tokens == max_new_tokens and not any(text in part.generation for text in stop)
        for part in made
    )


def harness_accuracies(records: Sequence[Record]) -> dict[str, float]:
    """Compute the accuracies by the rules of lm-evaluation-harness; none unless all answers are numbers."""
    if any(record.strict_match is None for record in records):
        return {}
    return {
        "strict_match": sum(bool(record.strict_match) for record in records) / len(records),
        "flexible_extract": sum(bool(record.flexible_extract) for record in records) / len(records),
    }


def samples(records: Sequence[Record]) -> list[str]:
    """Return Markdown sections of the first questions, generations and grades, with data in code blocks."""
    parts = []
    for number, record in enumerate(records[:SAMPLES], start=1):
        about = f"{record.id}: predicted {record.prediction!r}, reference {record.reference!r}"
        block = code_block([about, "", record.question, "", record.generation])
        parts.append(f"**{number}, {'correct' if record.correct else 'wrong'}**\n\n{block}")
    return parts


def record_line(record: Record) -> str:
    """Return a line of ``results.jsonl``; several samples are objects in a list."""
    values = record._asdict()
    samples = values.pop("samples")
    if samples is not None:
        values["samples"] = [sample._asdict() for sample in samples]
    return dump_json(values)

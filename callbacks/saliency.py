"""Saliency diagnostics: information flow from the soft prompt to question and rationale, by example.

Writes ``saliency.jsonl``, arrays and figures (see ``saliency_files`` and ``saliency_figures``). To
TensorBoard it logs figures, means over examples and charts of all layers. The means of an evaluation are
``saliency/by_layer/prompt_to_question``, ``.../prompt_to_rationale``, ``.../question_to_second_half`` and so
on, with the layer as step; those of a fit ``saliency/prompt_to_question/layer_07`` and so on.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from promptstage.callbacks.examples import SPLITS, check_gradients, data_of, gather_by_id
from promptstage.callbacks.saliency_files import About, Saved
from promptstage.callbacks.saliency_matrix import ExampleMatrices
from promptstage.callbacks.saliency_report import draw_steps, report
from promptstage.callbacks.saliency_sample import BalancedSample
from promptstage.callbacks.saliency_tokens import about_of, matrices_of
from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.diagnosis import diagnose
from promptstage.lightning_modules.evaluation import generate_batch, generated_tokens
from promptstage.lightning_modules.functional.information_flow import ACCUMULATE_OVER, ALPHA, AccumulateOver
from promptstage.utilities.errors import UserError, choose

Label = Literal["rationale", "generation"]


class Measured(NamedTuple):
    """One example's measures, on the CPU (see ``Diagnosis``)."""

    id: str
    correct: bool | None
    arrays: dict[str, Tensor]


class SaliencyDiagnostics(L.Callback):
    """Measures saliency in ``validate``, ``test`` and ``predict``, and in ``fit``.

    Args:
        layers: decoder blocks to look at, ascending; None: all. The lowest decides the cost.
        examples: how many of the split, from the first; None: all.
        label: what the loss is taken of: the gold ``rationale``, or the model's own ``generation``; None:
            generation in ``test`` and ``predict``, rationale elsewhere.
        every_n_steps: in ``fit``, measure validation examples every this many optimizer steps; None: at each
            validation.
        curve_only: the layer curve alone, which a model without a soft prompt has, too.
        alpha: how far above the mean a virtual token's flow must be for accumulation (DPC: 10).
        accumulate_over: rows whose flow counts for accumulation: ``span``: from the question's first token to
            the rationale's last (DPC eq. 7); ``question_and_rationale``: without what stands between these.
        balanced: measure this many correctly and this many incorrectly answered examples, the first ones of
            the split (DPC §2.2.2: 50, at random); None: whatever the answer. In ``validate`` and ``test``.
        rollout: attention rollout (Abnar & Zuidema 2020) of the rationale's second half, too. It needs all
            layers and computes the attention weights of each, n × n in blocks of rows, a second time.
        folder: where the files go; None: the run's.

    Raises:
        UserError: when the label is unknown or a number is not allowed.
    """

    takes_gradients = True

    def __init__(
        self,
        layers: list[int] | None = None,
        examples: int | None = None,
        label: Label | None = None,
        every_n_steps: int | None = None,
        curve_only: bool = False,
        alpha: float = ALPHA,
        accumulate_over: AccumulateOver = "span",
        balanced: int | None = None,
        rollout: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.label = None if label is None else choose("label", label, get_args(Label))
        for what, value in (
            ("saliency of {} examples", examples),
            ("saliency every {} steps", every_n_steps),
        ):
            if value is not None and value < 1:
                raise UserError(f"{what.format(value)}: allowed are 1 and more")
        if layers is not None and (not layers or layers != sorted(set(layers))):
            raise UserError(f"layers of saliency must ascend without repeats, not {layers}")
        if alpha <= 0:
            raise UserError(f"alpha must be positive, not {alpha}")
        if balanced is not None and balanced < 1:
            raise UserError(f"balanced must be >= 1, got {balanced}")
        if rollout and layers is not None:
            raise UserError("attention rollout needs all layers: leave out either rollout or layers")
        choose("accumulate_over", accumulate_over, ACCUMULATE_OVER)
        self.layers, self.examples, self.every_n_steps = layers, examples, every_n_steps
        self.curve_only, self.alpha, self.folder = curve_only, alpha, folder
        self.accumulate_over, self.balanced, self.rollout = accumulate_over, balanced, rollout
        self.found: list[Measured] = []
        self.matrices: list[ExampleMatrices] = []
        self.sample: BalancedSample | None = None
        self.prefix: Prefix | None = None
        self.measured_step = 0
        self.charted = False  # whether the layout of TensorBoard's custom scalars is written

    # --- when ---------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            UserError: when gradients could not be taken, or ``balanced`` has no answers to choose from.
        """
        check_gradients(trainer, "saliency")
        command = trainer.state.fn
        if self.balanced is not None and command not in (TrainerFn.VALIDATING, TrainerFn.TESTING):
            name = "this command" if command is None else command.value
            raise UserError(f"balanced needs graded answers: use it with validate or test, not with {name}")

    def _check(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Before any work: do the layers exist, is there a prompt?"""
        self._about(pl_module, self._prefix(pl_module))

    on_fit_start = on_test_start = on_predict_start = _check

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module)

    def _start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.found, self.matrices, self.prefix = [], [], self._prefix(pl_module)
        if self.balanced is not None:
            self.sample = BalancedSample(self.balanced, self._ids(trainer))

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _start

    def _batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        if not trainer.sanity_checking and not self._only_between(trainer):
            self._batch(trainer, pl_module, batch, outputs)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _batch_end  # type: ignore[assignment]  # fewer arguments

    def _end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking and not self._only_between(trainer):
            self._finish(trainer, pl_module)

    on_validation_end = on_test_end = on_predict_end = _end

    def _only_between(self, trainer: L.Trainer) -> bool:
        """Whether validations of a fit are not looked at, because steps between them are."""
        return trainer.state.fn == "fit" and self.every_n_steps is not None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if self.every_n_steps is None or step % self.every_n_steps or step == self.measured_step:
            return
        self.measured_step = step
        self._start(trainer, pl_module)
        for batch in data_of(trainer).first_examples("validation", self.examples):
            self._batch(trainer, pl_module, batch.to(pl_module.device))
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not self.curve_only:
            assert self.folder is not None
            draw_steps(trainer, self.folder)

    # --- what ---------------------------------------------------------------------------------------

    def _prefix(self, module: SoftPromptModule) -> Prefix | None:
        with torch.no_grad():
            prefix = module.prefix()
        if prefix is None and not self.curve_only:
            raise UserError(
                f"{type(module).__name__} has no soft prompt: there is no flow to measure; curve_only looks "
                "at the layer curve alone"
            )
        return prefix

    def _layers(self, module: SoftPromptModule) -> list[int]:
        layers = list(range(module.backbone.num_layers)) if self.layers is None else self.layers
        module.check_layers("layers of saliency", layers)
        return layers

    def _about(
        self, module: SoftPromptModule, prefix: Prefix | None, label: str = "", split: str = ""
    ) -> About:
        about = about_of(module, prefix, self._layers(module))
        return replace(
            about, alpha=self.alpha, accumulate_over=self.accumulate_over, label=label, split=split
        )

    def _ids(self, trainer: L.Trainer) -> list[str]:
        """Ids of the examples that may be measured, in the order of the split."""
        return data_of(trainer).example_ids(SPLITS[trainer.state.fn or ""])[: self.examples]

    def _label(self, trainer: L.Trainer) -> str:
        own = "generation" if trainer.state.fn in ("test", "predict") else "rationale"
        return self.label or own

    def _batch(
        self,
        trainer: L.Trainer,
        module: SoftPromptModule,
        batch: Batch,
        outputs: Mapping[str, list[Any]] | None = None,
    ) -> None:
        """Measure the wanted examples of a batch, or keep them until it is known which are wanted."""
        wanted = set(self._ids(trainer))
        batch = batch.select([row for row, example in enumerate(batch.examples) if example.id in wanted])
        if not len(batch):
            return
        records = [] if outputs is None else outputs["records"]
        correct = {record.id: record.correct if record.reference else None for record in records}
        answers: dict[str, list[int]] | None = None
        if self._label(trainer) == "generation":
            if outputs is None:
                new = generate_batch(module.backbone, batch, self.prefix)
                answers = dict(zip((example.id for example in batch.examples), new, strict=True))
            else:
                answers = dict(zip(correct, outputs["generated"], strict=True))
            # What was not answered, or with nothing, has no rationale to look at.
            rows = [row for row, example in enumerate(batch.examples) if answers.get(example.id)]
            if not rows:
                return
            batch = batch.select(rows)
        if self.sample is not None:
            self.sample.add(batch, correct, answers)
            return
        self._measure(module, batch, correct, answers, self._ids(trainer)[0])

    def _measure(
        self,
        module: SoftPromptModule,
        batch: Batch,
        correct: Mapping[str, bool | None],
        answers: Mapping[str, list[int]] | None,
        shown: str,
    ) -> None:
        """Measure a batch.

        Args:
            correct: grades by id, of the examples that have one.
            answers: generations by id, as label; None: the gold rationale.
            shown: id of the example whose matrices are kept.
        """
        names = [example.id for example in batch.examples]
        tokens = batch.gold if answers is None else generated_tokens(batch, [answers[name] for name in names])
        layers = self._layers(module)
        diagnosis = diagnose(module.backbone, tokens, self.prefix, layers, names, self.rollout)
        measures = {key: value for key, value in vars(diagnosis).items() if value is not None}
        for row, name in enumerate(names):
            arrays = {key: value[row].cpu() for key, value in measures.items()}
            self.found.append(Measured(name, correct.get(name), arrays))
        if shown in names and self.prefix is not None:
            one = tokens.select([names.index(shown)])
            about = self._about(module, self.prefix)
            self.matrices.append(matrices_of(module.backbone, one, self.prefix, about, shown))

    def _measure_sample(self, trainer: L.Trainer, module: SoftPromptModule) -> list[str]:
        """Measure this process's part of the balanced sample; return the ids of the whole."""
        assert self.sample is not None
        chosen = self.sample.choose()
        for batch, correct, answers in self.sample.batches(chosen, data_of(trainer).eval_batch_size):
            self._measure(module, batch, correct, answers, chosen[0])
        return chosen

    def _finish(self, trainer: L.Trainer, module: SoftPromptModule) -> None:
        ids = self._ids(trainer)
        expected = len(ids) if self.sample is None else len(self._measure_sample(trainer, module))
        measured, matrices = gather_by_id(self.found, ids), gather_by_id(self.matrices, ids)
        if not trainer.is_global_zero:
            return
        if len(measured) < expected and self._label(trainer) == "generation":
            rank_zero_info(
                f"saliency: {expected - len(measured)} of {expected} examples are skipped: no generation, "
                "or they were not evaluated"
            )
        if not measured:
            return
        arrays = {
            name: np.stack([np.asarray(example.arrays[name], dtype=float) for example in measured])
            for name in measured[0].arrays
        }
        correct = [np.nan if example.correct is None else float(example.correct) for example in measured]
        split = SPLITS[trainer.state.fn or ""]
        about = self._about(module, self.prefix, self._label(trainer), split)
        saved = Saved(about, [example.id for example in measured], np.array(correct), arrays)
        assert self.folder is not None
        report(trainer, self.folder, saved, next(iter(matrices), None), first=not self.charted)
        self.charted = True

"""Saliency diagnostics: information flow from the soft prompt to question and rationale, by example.

Measures of DPC ("Improving complex reasoning with Dynamic Prompt Corruption", Fan et al., ICLR 2025,
arXiv:2503.13208, §2) and DHAM ("Unlocking coherent reasoning in LLMs with hierarchical soft prompts",
anonymous, under review, §3).

Writes ``saliency.jsonl``, arrays and figures (see ``saliency_files`` and ``saliency_figures``). Logs figures,
means over examples and charts of all layers to TensorBoard. The means of an evaluation are
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

from promptstage.callbacks.answered import Answered
from promptstage.callbacks.examples import SPLITS, check_gradients, data_of, gather_by_id
from promptstage.callbacks.run.loggers import run_name
from promptstage.callbacks.saliency.files import About, Saved
from promptstage.callbacks.saliency.matrix import ExampleMatrices
from promptstage.callbacks.saliency.report import draw_steps, report
from promptstage.callbacks.saliency.sample import BalancedSample
from promptstage.callbacks.saliency.tokens import about_of, matrices_of
from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.decoder import Generated
from promptstage.lightning_modules.decoding.engines import generate_batch
from promptstage.lightning_modules.decoding.records import generated_tokens
from promptstage.lightning_modules.diagnosis import diagnose
from promptstage.lightning_modules.functional.information_flow import ACCUMULATE_OVER, ALPHA, AccumulateOver
from promptstage.utilities.checks import check_minimum, check_positive
from promptstage.utilities.errors import UserError, choose

Label = Literal["rationale", "generation"]


class Measured(NamedTuple):
    """Measures of one example, on the CPU (see ``Diagnosis``)."""

    id: str
    correct: bool | None
    arrays: dict[str, Tensor]


class SaliencyDiagnostics(L.Callback):
    """Saliency measures in ``validate``, ``test``, ``predict`` and ``fit``.

    Saliency is S = |Σ_h A ⊙ ∂𝓛/∂A|, the sum over heads h of attention weights times the gradient of the loss
    (DPC eq. 1): the information flow from column to row.

    Usage::

        promptstage test --ckpt_path runs/first --trainer.callbacks SaliencyDiagnostics

    The same in a YAML file, for 50 correct and 50 incorrect answers::

        trainer:
          callbacks:
            - class_path: promptstage.SaliencyDiagnostics
              init_args:
                balanced: 50

    Args:
        layers: layers to measure, ascending; None: all. The lowest one determines the cost.
        examples: number of examples of the split, from the first; None: all.
        label: tokens of the loss: the gold ``rationale`` or the model's own ``generation``; None: generation
            in ``test`` and ``predict``, rationale elsewhere.
        every_n_steps: in ``fit``, measure validation examples every N optimizer steps; None: at each
            validation.
        curve_only: measure only the layer curve, which a model without a soft prompt has, too.
        alpha: factor over the mean from which a virtual token's flow accumulates (DPC: 10).
        accumulate_over: rows whose flow counts for accumulation: ``span``: from the question's first token to
            the rationale's last (DPC eq. 7); ``question_and_rationale``: without the tokens between the two.
        balanced: measure the first N correct and the first N incorrect answers of the split (DPC §2.2.2: 50,
            at random), in ``validate`` and ``test``; None: all answers.
        rollout: also compute attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928) to the rationale's
            second half. It needs all layers and computes the attention weights a second time, n × n in blocks
            of rows.
        folder: folder for the files; None: the run's.

    Raises:
        UserError: if the label is unknown or a number is not allowed.
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
        numbers = {"examples": examples, "every_n_steps": every_n_steps, "balanced": balanced}
        check_minimum(numbers, 1)
        if layers is not None and (not layers or layers != sorted(set(layers))):
            raise UserError(f"layers of saliency must ascend without repeats, got {layers}")
        check_positive({"alpha": alpha})
        if rollout and layers is not None:
            raise UserError("attention rollout needs all layers: leave out either rollout or layers")
        choose("accumulate_over", accumulate_over, ACCUMULATE_OVER)
        self.layers, self.examples, self.every_n_steps = layers, examples, every_n_steps
        self.curve_only, self.alpha, self.folder = curve_only, alpha, folder
        self.accumulate_over, self.balanced, self.rollout = accumulate_over, balanced, rollout
        self.measured: list[Measured] = []
        self.matrices: list[ExampleMatrices] = []
        self.sample: BalancedSample | None = None
        self.prefix: Prefix | None = None
        self.answered = Answered()
        self.measured_step = 0
        self.charted = False  # the layout of TensorBoard's custom scalars is written

    # --- hooks ---------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            UserError: if gradients cannot be computed, or ``balanced`` has no graded answers.
        """
        check_gradients(trainer, "saliency")
        command = trainer.state.fn
        if self.balanced is not None and command not in (TrainerFn.VALIDATING, TrainerFn.TESTING):
            name = "this command" if command is None else command.value
            raise UserError(f"balanced needs graded answers: use it with validate or test, not with {name}")

    def _check(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Check layers and prompt before the evaluation starts."""
        pl_module.check_unchanged_attention("saliency")
        self._about(pl_module, self._prefix(pl_module))

    on_fit_start = on_test_start = on_predict_start = _check

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module)

    def _start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.measured, self.matrices, self.prefix = [], [], self._prefix(pl_module)
        self.answered = Answered()
        if self.balanced is not None:
            self.sample = BalancedSample(self.balanced, self._ids(trainer))

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _start

    def _batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, *args: Any
    ) -> None:
        if not trainer.sanity_checking and not self._skips_validation(trainer):
            own = self._chosen(trainer, batch)
            for part in self.answered.take(trainer, own, outputs, batch_idx):
                self._batch(trainer, pl_module, part, self.answered.generated)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _batch_end  # type: ignore[assignment]  # fewer arguments

    def _end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking and not self._skips_validation(trainer):
            self._finish(trainer, pl_module)

    on_validation_end = on_test_end = on_predict_end = _end

    def _skips_validation(self, trainer: L.Trainer) -> bool:
        """Return whether validations of a fit are not measured, because ``every_n_steps`` is set."""
        return trainer.state.fn == "fit" and self.every_n_steps is not None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if self.every_n_steps is None or step % self.every_n_steps or step == self.measured_step:
            return
        self.measured_step = step
        self._start(trainer, pl_module)
        for batch in data_of(trainer).first_examples("validation", self.examples):
            if len(own := self._chosen(trainer, batch.to(pl_module.device))):
                self._batch(trainer, pl_module, own)
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not self.curve_only:
            assert self.folder is not None
            draw_steps(trainer, self.folder)

    # --- measurement ---------------------------------------------------------------------------------------

    def _prefix(self, module: SoftPromptModule) -> Prefix | None:
        with torch.no_grad():
            prefix = module.prefix()
        if prefix is None and not self.curve_only:
            raise UserError(
                f"{type(module).__name__} has no soft prompt: there is no flow to measure; curve_only "
                "measures the layer curve alone"
            )
        return prefix

    def _layers(self, module: SoftPromptModule) -> list[int]:
        layers = list(module.backbone.attention_layers) if self.layers is None else self.layers
        module.check_layers("layers of saliency", layers)
        module.backbone.check_attention("layers of saliency", layers)
        return layers

    def _about(
        self,
        module: SoftPromptModule,
        prefix: Prefix | None,
        label: str = "",
        split: str = "",
        data: str = "",
    ) -> About:
        about = about_of(module, prefix, self._layers(module))
        about = replace(about, alpha=self.alpha, accumulate_over=self.accumulate_over)
        return replace(about, label=label, split=split, data=data)

    def _ids(self, trainer: L.Trainer) -> list[str]:
        """Return the ids of the examples to measure, or to choose from, in the order of the split."""
        return data_of(trainer).example_ids(SPLITS[trainer.state.fn or ""])[: self.examples]

    def _label(self, trainer: L.Trainer) -> str:
        own = "generation" if trainer.state.fn in ("test", "predict") else "rationale"
        return self.label or own

    def _chosen(self, trainer: L.Trainer, batch: Batch) -> Batch:
        """Return the examples of a batch that are measured."""
        chosen = set(self._ids(trainer))
        return batch.select([row for row, example in enumerate(batch.examples) if example.id in chosen])

    def _batch(
        self,
        trainer: L.Trainer,
        module: SoftPromptModule,
        batch: Batch,
        generated: Mapping[str, Generated] | None = None,
    ) -> None:
        """Measure examples; candidates of a balanced sample are stored instead.

        Args:
            generated: their generations by id; None: not generated yet.
        """
        correct = {
            name: answer.record.correct if answer.record.reference else None
            for name, answer in (generated or {}).items()
        }
        answers: dict[str, list[int]] | None = None
        if self._label(trainer) == "generation":
            if generated is None:
                new = generate_batch(module.backbone, batch, self.prefix)
                answers = dict(zip((example.id for example in batch.examples), new, strict=True))
            else:
                answers = {name: list(answer.tokens) for name, answer in generated.items()}
            # Without a generation, or with an empty one, there is no rationale to measure.
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
            correct: grades by id, without ungraded examples.
            answers: generations by id, used as label; None: the gold rationale.
            shown: id of the example whose matrices are stored.
        """
        names = [example.id for example in batch.examples]
        tokens = batch.gold if answers is None else generated_tokens(batch, [answers[name] for name in names])
        layers = self._layers(module)
        diagnosis = diagnose(module.backbone, tokens, self.prefix, layers, names, self.rollout)
        measures = {key: value for key, value in vars(diagnosis).items() if value is not None}
        for row, name in enumerate(names):
            arrays = {key: value[row].cpu() for key, value in measures.items()}
            self.measured.append(Measured(name, correct.get(name), arrays))
        if shown in names and self.prefix is not None:
            one = tokens.select([names.index(shown)])
            about = self._about(module, self.prefix)
            self.matrices.append(matrices_of(module.backbone, one, self.prefix, about, shown))

    def _measure_sample(self, trainer: L.Trainer, module: SoftPromptModule) -> list[str]:
        """Measure this rank's part of the balanced sample; return all ids of the sample."""
        assert self.sample is not None
        chosen = self.sample.choose()
        for batch, correct, answers in self.sample.batches(chosen, data_of(trainer).eval_batch_size):
            self._measure(module, batch, correct, answers, chosen[0])
        return chosen

    def _finish(self, trainer: L.Trainer, module: SoftPromptModule) -> None:
        ids = self._ids(trainer)
        expected = len(ids) if self.sample is None else len(self._measure_sample(trainer, module))
        measured, matrices = gather_by_id(self.measured, ids), gather_by_id(self.matrices, ids)
        if not trainer.is_global_zero:
            return
        if len(measured) < expected and self._label(trainer) == "generation":
            rank_zero_info(
                f"saliency: {expected - len(measured)} of {expected} examples skipped: not evaluated, or "
                "their generation is empty"
            )
        if not measured:
            return
        arrays = {
            name: np.stack([np.asarray(example.arrays[name], dtype=float) for example in measured])
            for name in measured[0].arrays
        }
        correct = [np.nan if example.correct is None else float(example.correct) for example in measured]
        split = SPLITS[trainer.state.fn or ""]
        about = self._about(module, self.prefix, self._label(trainer), split, data_of(trainer).name)
        assert self.folder is not None
        run = run_name(self.folder)
        saved = Saved(about, [example.id for example in measured], np.array(correct), arrays, run)
        report(trainer, self.folder, saved, next(iter(matrices), None), first=not self.charted)
        self.charted = True

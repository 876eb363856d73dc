"""How information flows from the soft prompt to question and rationale, example by example.

Writes ``saliency.jsonl``, arrays and figures (see ``saliency_files`` and ``saliency_figures``). To
TensorBoard it logs figures, means over examples and charts of all layers. The means of an evaluation are
``saliency/by_layer/prompt_to_question``, ``.../prompt_to_rationale`` and ``.../curve``, with the layer as
step; those of a fit ``saliency/prompt_to_question/layer_07`` and so on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.board import boards, logged_step
from callbacks.examples import SPLITS, check_gradients, data_of, gather_by_id
from callbacks.saliency_charts import log_by_layer, log_over_steps
from callbacks.saliency_files import About, Matrix, Saved, load, write_matrix
from datamodules.encoding import Batch, Tokens
from lightning_modules.backbone.prefix import Prefix
from lightning_modules.base import SoftPromptModule
from lightning_modules.diagnosis import diagnose, matrices
from lightning_modules.evaluation import Record, generate_batch, generated_tokens
from lightning_modules.functional.information_flow import ALPHA, shallow_layers
from utilities.errors import UserError, choose
from utilities.files import make_folder, write_bytes

Label = Literal["rationale", "generation"]
STEPS = "saliency_steps"  # what fit sees, in the run's folder


class Measured(NamedTuple):
    """One example's measures, on the CPU (see ``Diagnosis``)."""

    id: str
    correct: bool | None
    arrays: dict[str, Tensor]


class SaliencyDiagnostics(L.Callback):
    """Measures saliency in ``validate``, ``test`` and ``predict``, and in ``fit``.

    Args:
        layers: decoder blocks to look at, ascending; None: all. The lowest decides the cost.
        examples: the first so many of the split; None: all.
        label: what the loss is taken of: the gold ``rationale``, or the model's own ``generation``; None:
            generation in ``test`` and ``predict``, rationale elsewhere.
        every_n_steps: in ``fit``, look at validation examples every so many optimiser steps; None: at each
            validation.
        curve_only: the layer curve alone, which a model without a soft prompt has, too.
        alpha: how far above the mean a virtual token's flow must be for accumulation (DPC: 10).
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
        self.layers, self.examples, self.every_n_steps = layers, examples, every_n_steps
        self.curve_only, self.alpha, self.folder = curve_only, alpha, folder
        self.found: list[Measured] = []
        self.matrices: list[Matrix] = []
        self.prefix: Prefix | None = None
        self.measured_step = 0
        self.charted = False  # whether the layout of TensorBoard's custom scalars is written

    # --- when ---------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            UserError: when gradients could not be taken.
        """
        check_gradients(trainer, "saliency")

    def _check(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Before any work: do the layers exist, is there a prompt?"""
        self._about(pl_module, self._prefix(pl_module), "", "")

    on_fit_start = on_test_start = on_predict_start = _check

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module)

    def _start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.found, self.matrices, self.prefix = [], [], self._prefix(pl_module)

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _start

    def _batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        if not trainer.sanity_checking and not self._only_between(trainer):
            self._measure(trainer, pl_module, batch, outputs)

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
            self._measure(trainer, pl_module, batch.to(pl_module.device))
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not self.curve_only:
            self._draw_steps(trainer)

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

    def _about(self, module: SoftPromptModule, prefix: Prefix | None, label: str, split: str) -> About:
        depth = range(module.backbone.num_layers)
        columns = [[] if prefix is None else prefix.columns(layer)[prefix.lead :] for layer in depth]
        return About(
            layers=self._layers(module),
            shallow=shallow_layers([layer for layer in depth if columns[layer]]),
            boundaries=[layer for layer in depth[1:] if columns[layer] != columns[layer - 1]],
            stages=[] if prefix is None else list(prefix.stages),
            lead=0 if prefix is None else prefix.lead,
            alpha=self.alpha,
            label=label,
            split=split,
        )

    def _label(self, trainer: L.Trainer) -> str:
        own = "generation" if trainer.state.fn in ("test", "predict") else "rationale"
        return self.label or own

    def _measure(
        self,
        trainer: L.Trainer,
        module: SoftPromptModule,
        batch: Batch,
        outputs: Mapping[str, list[Any]] | None = None,
    ) -> None:
        ids = data_of(trainer).example_ids(SPLITS[trainer.state.fn or ""])
        wanted = set(ids[: self.examples])
        batch = batch.select([row for row, example in enumerate(batch.examples) if example.id in wanted])
        if not len(batch):
            return
        prefix = self.prefix
        records: list[Record] = [] if outputs is None else outputs["records"]
        correct = {record.id: record.correct if record.reference else None for record in records}
        if self._label(trainer) == "rationale":
            tokens = batch.gold
        else:
            if outputs is None:
                new = generate_batch(module.backbone, batch, prefix)
                answers = dict(zip((example.id for example in batch.examples), new, strict=True))
            else:
                answers = dict(zip(correct, outputs["generated"], strict=True))
            # What was not answered, or with nothing, has no rationale to look at.
            rows = [row for row, example in enumerate(batch.examples) if answers.get(example.id)]
            if not rows:
                return
            batch = batch.select(rows)
            tokens = generated_tokens(batch, [answers[example.id] for example in batch.examples])
        names = [example.id for example in batch.examples]
        diagnosis = diagnose(module.backbone, tokens, prefix, self._layers(module), names)
        for row, name in enumerate(names):
            arrays = {key: value[row].cpu() for key, value in vars(diagnosis).items()}
            self.found.append(Measured(name, correct.get(name), arrays))
        if ids[0] in names and prefix is not None:
            row = names.index(ids[0])
            self.matrices.append(self._matrix(module, tokens.select([row]), prefix, ids[0]))

    def _matrix(self, module: SoftPromptModule, tokens: Tokens, prefix: Prefix, name: str) -> Matrix:
        about = self._about(module, prefix, "", "")
        shallow = [layer for layer in about.layers if layer in about.shallow]
        panels = {f"layer {about.layers[-1]}": about.layers[-1:]}
        if shallow:
            panels = {f"mean of layers {shallow[0]} to {shallow[-1]}": shallow} | panels
        found = matrices(module.backbone, tokens, prefix, panels)
        tokens = tokens.right_padded()
        length = next(iter(found.values())).shape[0]
        texts = [str(module.backbone.tokenizer.decode([token])) for token in tokens.input_ids[0, :length]]
        panels_found = {key: np.asarray(value.cpu(), dtype=float) for key, value in found.items()}
        question, rationale = ((int(a), int(b)) for a, b in (tokens.question[0], tokens.rationale[0]))
        return Matrix(name, panels_found, texts, question, rationale)

    # --- where it goes ------------------------------------------------------------------------------

    def _finish(self, trainer: L.Trainer, module: SoftPromptModule) -> None:
        split = SPLITS[trainer.state.fn or ""]
        ids = data_of(trainer).example_ids(split)
        measured, matrix = gather_by_id(self.found, ids), gather_by_id(self.matrices, ids)
        if not trainer.is_global_zero:
            return
        expected = len(ids[: self.examples])
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
        about = self._about(module, self.prefix, self._label(trainer), split)
        saved = Saved(about, [example.id for example in measured], np.array(correct), arrays)
        self._report(trainer, saved, matrix)

    def _report(self, trainer: L.Trainer, saved: Saved, matrix: Sequence[Matrix]) -> None:
        from callbacks.figures import png
        from callbacks.saliency_figures import all_figures, told

        assert self.folder is not None
        learning = trainer.state.fn == TrainerFn.FITTING
        folder = self.folder / STEPS if learning else self.folder
        stem = f"step_{trainer.global_step:06d}" if learning else "saliency"
        make_folder(folder)
        saved.write(folder, stem)
        for one in matrix:
            write_matrix(one, folder, stem)
        loggers, step = boards(trainer), logged_step(trainer)
        for logger in loggers if learning else ():
            log_over_steps(logger, saved, step, first=not self.charted)
        if loggers and not learning:
            log_by_layer(folder, saved)
        self.charted = True
        if len(saved.ids) > 1:
            rank_zero_info(f"{told(saved)}; in {folder / stem}*")
        elif trainer.state.fn != TrainerFn.PREDICTING:
            rank_zero_info(f"saliency of 1 example: there is nothing to compare it with; in {folder / stem}*")
        if learning:
            return  # one figure of all steps at the end; ``saliency_figures.draw`` draws any step's
        for name, figure in all_figures(saved, next(iter(matrix), None)).items():
            write_bytes(folder / f"{stem}_{name}.png", png(figure))
            for logger in loggers:
                logger.experiment.add_figure(f"saliency/{name}", figure, step, close=False)

    def _draw_steps(self, trainer: L.Trainer) -> None:
        """How the flow changed while the prompt learnt, from what this fit has saved."""
        from callbacks.figures import png
        from callbacks.saliency_curves import while_learning

        assert self.folder is not None
        folder = self.folder / STEPS
        stems = sorted(path.stem for path in folder.glob("step_*.jsonl"))
        if len(stems) < 2:
            rank_zero_info(
                f"saliency was measured at {len(stems)} steps: a figure of its change needs at least 2"
            )
            return
        steps = [int(stem.rpartition("_")[2]) for stem in stems]
        figure = while_learning(steps, [load(folder, stem) for stem in stems])
        write_bytes(folder / "while_learning.png", png(figure))
        for logger in boards(trainer):
            logger.experiment.add_figure("saliency/while_learning", figure, logged_step(trainer))

"""Attention budget: share of attention that the prompt takes, and error of the identity of prefix theory.

"When do prompting and prefix-tuning work? A theory of capabilities and limitations", Petrov, Torr and Bibi,
ICLR 2024, arXiv:2310.19698, §4; equations in ``functional.attention_budget``.

Writes ``attention_budget.json`` (shares and greatest errors by layer and head),
``attention_budget.safetensors`` (the same for each example) and ``attention_budget.png``. Logs the figure,
the scalars ``attention_budget/share/…`` and ``attention_budget/error/…``, and shares by layer as
``attention_budget/by_layer/…`` with the layer as step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.answered import Answered
from promptstage.callbacks.attention_budget.files import STEM, About, Panel, Saved
from promptstage.callbacks.examples import SPLITS, data_of, gather_by_id
from promptstage.callbacks.run.loggers import log_figures, log_scalars, log_series
from promptstage.datamodules.encoding import Batch, Tokens
from promptstage.lightning_modules.attention_budget import budget_layers, head_attention, measure_budget
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.decoder import Generated
from promptstage.lightning_modules.decoding.records import generated_tokens
from promptstage.lightning_modules.distribution import needs_whole_backbone
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError, choose
from promptstage.utilities.files import make_folder
from promptstage.utilities.plurals import counted

Label = Literal["rationale", "generation"]


class Measured(NamedTuple):
    """Measures of one example on the CPU: (L, H, 3) and (L, H, 2)."""

    id: str
    share: torch.Tensor
    error: torch.Tensor


class AttentionBudget(L.Callback):
    """Share of attention that the prompt takes, by layer and head, in ``validate`` and ``test``.

    Also the greatest error of the identity A^pt[i, j] = A[i, j] (1 − a_i): with the inputs of a layer held
    fixed, a prompt scales the attention over the content and cannot change its pattern.

    Usage::

        promptstage test --ckpt_path runs/first --trainer.callbacks AttentionBudget

    The same in a YAML file, for 100 examples::

        trainer:
          callbacks:
            - class_path: promptstage.AttentionBudget
              init_args:
                examples: 100

    Args:
        examples: number of examples of the split, from the first; None: all.
        label: tokens after the question, the gold ``rationale`` or the model's own ``generation``; None:
            generation in ``test``, rationale in ``validate``.
        folder: folder for the files; None: the run's.

    Raises:
        UserError: if the label is unknown or a number is not allowed.
    """

    def __init__(
        self, examples: int | None = None, label: Label | None = None, folder: Path | None = None
    ) -> None:
        check_minimum({"examples": examples}, 1)
        self.label = None if label is None else choose("label", label, get_args(Label))
        self.examples, self.folder = examples, folder
        self.measured: list[Measured] = []
        self.panels: list[Panel] = []
        self.prefix: Prefix | None = None
        self.answered = Answered()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            UserError: in other commands than ``validate`` and ``test``, without a folder, or if the backbone
                is sharded.
        """
        if trainer.state.fn not in (TrainerFn.VALIDATING, TrainerFn.TESTING):
            name = "this command" if trainer.state.fn is None else trainer.state.fn.value
            raise UserError(f"AttentionBudget measures in validate and test, not in {name}")
        if self.folder is None:
            raise UserError("AttentionBudget needs a folder for its files: set folder")
        needs_whole_backbone("AttentionBudget", trainer)

    def _start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """
        Raises:
            UserError: if no layer attends to a prompt.
        """
        with torch.no_grad():
            prefix = pl_module.prefix()
        if prefix is None or not budget_layers(pl_module.backbone, prefix):
            raise UserError(
                f"{type(pl_module).__name__} has no soft prompt that takes attention: AttentionBudget has "
                "nothing to measure"
            )
        self.measured, self.panels, self.prefix, self.answered = [], [], prefix, Answered()

    on_validation_start = on_test_start = _start

    def _batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, *args: Any
    ) -> None:
        chosen = set(self._ids(trainer))
        own = batch.select([row for row, example in enumerate(batch.examples) if example.id in chosen])
        for part in self.answered.take(trainer, own, outputs, batch_idx):
            self._measure(trainer, pl_module, part, self.answered.generated)

    def _measure(
        self, trainer: L.Trainer, pl_module: Any, batch: Batch, answers: Mapping[str, Generated]
    ) -> None:
        """Measure examples whose generations are ``answers``, by id."""
        generated = self._label(trainer) == "generation"
        if generated:
            named = enumerate(example.id for example in batch.examples)
            batch = batch.select([row for row, name in named if name in answers and answers[name].tokens])
        if not len(batch):
            return
        tokens = batch.gold
        if generated:
            tokens = generated_tokens(batch, [list(answers[example.id].tokens) for example in batch.examples])
        assert self.prefix is not None
        measures = measure_budget(pl_module.backbone, tokens, self.prefix)
        for row, example in enumerate(batch.examples):
            share, error = measures.share[row].cpu().double(), measures.error[row].cpu().double()
            self.measured.append(Measured(example.id, share, error))
            if example.id == self._ids(trainer)[0]:
                self.panels.append(self._panel(pl_module, tokens.select([row]), example.id, share))

    on_validation_batch_end = on_test_batch_end = _batch_end  # type: ignore[assignment]  # fewer arguments

    def _panel(self, module: SoftPromptModule, tokens: Tokens, name: str, share: torch.Tensor) -> Panel:
        """Compute the attention of the head with the largest share on the prompt, for a batch of one."""
        assert self.prefix is not None
        place, head = divmod(int(share[:, :, 0].argmax()), share.shape[1])
        layer = budget_layers(module.backbone, self.prefix)[place]
        attention = head_attention(module.backbone, tokens, self.prefix, layer, head)
        tokens = tokens.right_padded()
        length = int(tokens.attention_mask.sum())
        texts = [str(module.backbone.tokenizer.decode([token])) for token in tokens.input_ids[0, :length]]
        with_prefix, without, taken = (np.asarray(part.cpu(), dtype=float) for part in attention)
        columns = with_prefix.shape[1] - without.shape[1] + length
        return Panel(
            name,
            layer,
            head,
            with_prefix[:length, :columns],
            without[:length, :length],
            taken[:length],
            texts,
        )

    def _ids(self, trainer: L.Trainer) -> list[str]:
        return data_of(trainer).example_ids(SPLITS[trainer.state.fn or ""])[: self.examples]

    def _label(self, trainer: L.Trainer) -> str:
        own = "generation" if trainer.state.fn == TrainerFn.TESTING else "rationale"
        return self.label or own

    def _finish(self, trainer: L.Trainer, pl_module: Any) -> None:
        ids = self._ids(trainer)
        measured, panels = gather_by_id(self.measured, ids), gather_by_id(self.panels, ids)
        if not trainer.is_global_zero:
            return
        if not measured:
            rank_zero_info("attention budget: nothing was measured, since all generations are empty")
            return
        assert self.prefix is not None
        assert self.folder is not None
        about = About(
            type(pl_module).__name__,
            pl_module.backbone_config.name,
            data_of(trainer).name,
            SPLITS[trainer.state.fn or ""],
            self._label(trainer),
            budget_layers(pl_module.backbone, self.prefix),
        )
        share = np.stack([example.share.numpy() for example in measured])
        error = np.stack([example.error.numpy() for example in measured])
        saved = Saved(about, [example.id for example in measured], share, error)
        self._report(trainer, self.folder, saved, panels)

    on_validation_end = on_test_end = _finish

    def _report(self, trainer: L.Trainer, folder: Path, saved: Saved, panels: list[Panel]) -> None:
        """Write files, print a summary, log scalars and draw the figure."""
        from promptstage.callbacks.attention_budget.figures import budget_figure

        make_folder(folder)
        saved.write(folder)
        scalars = saved.scalars()
        log_scalars(trainer, {f"{STEM}/{name}": value for name, value in scalars.items()})
        series = {f"{STEM}/by_layer/{name}": values for name, values in saved.by_layer().items()}
        layout = {"share of the prompt": ["Multiline", [f"{STEM}/by_layer/.*"]]}
        log_series(trainer, series, folder / "budget_by_layer", {"attention budget by layer": layout})
        if panels:
            log_figures(trainer, {STEM: budget_figure(saved, panels[0])}, STEM, folder, "")
        rank_zero_info(
            f"attention budget of {counted(len(saved.ids), 'example')}: the prompt takes "
            f"{scalars['share/all']:.1%} of attention; greatest error of the identity "
            f"{scalars['error/weights']:.1e} (weights), {scalars['error/output']:.1e} (output); files: "
            f"{folder / STEM}*"
        )

"""How information flows from the soft prompt to question and rationale, example by example.

Writes ``saliency.jsonl`` (a row an example) and ``saliency.safetensors`` (arrays, rows in the same order). To
TensorBoard go means over examples: ``saliency/prompt_to_question/layer_07``, ``.../prompt_to_rationale/...``,
``.../curve/...``.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save
from torch import Tensor

from callbacks.examples import data_of, gather_by_id
from datamodules.encoding import Batch
from lightning_modules.base import SoftPromptModule
from lightning_modules.diagnosis import Diagnosis, diagnose
from lightning_modules.evaluation import generated_tokens
from lightning_modules.functional.information_flow import ALPHA, accumulates, curve_shape
from utilities.errors import UserError, choose
from utilities.files import write_bytes, write_text

Label = Literal["rationale", "generation"]


class Measured(NamedTuple):
    """One example's measures, on the CPU; K layers, M virtual tokens (see ``Diagnosis``)."""

    id: str
    correct: bool | None
    arrays: dict[str, Tensor]


class SaliencyDiagnostics(L.Callback):
    """Measures saliency in ``validate`` and ``test``, and in ``fit`` at its validations.

    Args:
        layers: decoder blocks to look at, ascending; None: all. The lowest decides the cost.
        examples: the first so many of the split; None: all.
        label: what the loss is taken of: the gold ``rationale``, or the model's own ``generation``.
        alpha: how far above the mean a virtual token's flow must be for accumulation (DPC: 10).
        folder: where the files go; None: nothing is written.

    Raises:
        UserError: when the label is unknown or a number is not allowed.
    """

    def __init__(
        self,
        layers: list[int] | None = None,
        examples: int | None = None,
        label: Label = "rationale",
        alpha: float = ALPHA,
        folder: Path | None = None,
    ) -> None:
        self.label = choose("label", label, get_args(Label))
        if examples is not None and examples < 1:
            raise UserError(f"saliency of {examples} examples: allowed are 1 and more")
        if layers is not None and (not layers or layers != sorted(set(layers))):
            raise UserError(f"layers of saliency must ascend without repeats, not {layers}")
        if alpha <= 0:
            raise UserError(f"alpha must be positive, not {alpha}")
        self.layers, self.examples, self.alpha, self.folder = layers, examples, alpha, folder
        self.found: list[Measured] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            UserError: when gradients could not be taken.
        """
        assert isinstance(pl_module, SoftPromptModule)
        loop = {"validate": trainer.validate_loop, "test": trainer.test_loop}.get(stage)
        if loop is not None and loop.inference_mode:
            raise UserError(
                "saliency needs gradients, which inference mode forbids: --trainer.inference_mode false"
            )

    def _start(self, *args: Any) -> None:
        self.found = []

    on_validation_epoch_start = on_test_epoch_start = _start  # type: ignore[assignment]  # fewer arguments

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if not trainer.sanity_checking:
            self._measure(pl_module, outputs, batch, data_of(trainer).example_ids("validation"))

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._measure(pl_module, outputs, batch, data_of(trainer).example_ids("test"))

    def _measure(self, module: SoftPromptModule, outputs: Any, batch: Batch, ids: Sequence[str]) -> None:
        wanted = set(ids[: self.examples])
        graded = {record.id: record for record in outputs["records"]}
        if self.label == "generation":
            # What was not answered, or with nothing, has no rationale to look at.
            new = dict(zip(graded, outputs["generated"], strict=True))
            wanted = {name for name in wanted if new.get(name)}
        rows = [row for row, example in enumerate(batch.examples) if example.id in wanted]
        if not rows:
            return
        some = batch.select(rows)
        names = [example.id for example in some.examples]
        tokens = (
            some.gold if self.label == "rationale" else generated_tokens(some, [new[name] for name in names])
        )
        prefix = module.evaluation_prefix()
        if prefix is None:
            raise UserError(f"{type(module).__name__} has no soft prompt: there is no flow to measure")
        layers = range(module.backbone.num_layers) if self.layers is None else self.layers
        diagnosis = diagnose(module.backbone, tokens, prefix, layers, names)
        for row, name in enumerate(names):
            record = graded.get(name)
            self.found.append(Measured(name, record.correct if record else None, _row(diagnosis, row)))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            fitting = trainer.state.fn == "fit"
            stem = f"saliency_step_{trainer.global_step:06d}" if fitting else "saliency"
            self._finish(trainer, pl_module, "validation", stem)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(trainer, pl_module, "test", "saliency")

    def _finish(self, trainer: L.Trainer, module: Any, split: str, stem: str) -> None:
        measured = gather_by_id(self.found, data_of(trainer).example_ids(split))
        if not trainer.is_global_zero or not measured:
            return
        arrays = {
            name: torch.stack([example.arrays[name] for example in measured]) for name in measured[0].arrays
        }
        layers = list(range(module.backbone.num_layers)) if self.layers is None else self.layers
        rows = [self.row(example, layers) for example in measured]
        if self.folder is not None:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_text(self.folder / f"{stem}.jsonl", text)
            about = {
                "layers": layers,
                "label": self.label,
                "split": split,
                "ids": [row["id"] for row in rows],
            }
            metadata = {name: json.dumps(value) for name, value in about.items()}
            write_bytes(self.folder / f"{stem}.safetensors", save(arrays, metadata))
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        for logger in loggers:
            for name, tag in CURVES.items():
                for layer, value in zip(layers, arrays[name].nanmean(0).tolist(), strict=True):
                    place = f"saliency/{tag}/layer_{layer:02d}"
                    logger.experiment.add_scalar(place, value, trainer.global_step)
        if self.folder is not None:
            self._draw(loggers, stem, trainer.global_step)

    def _draw(self, loggers: Sequence[TensorBoardLogger], stem: str, step: int) -> None:
        from callbacks.figures import png
        from callbacks.saliency_figures import all_figures, load

        assert self.folder is not None
        saved = load(self.folder, stem)
        if not saved.both:
            rank_zero_info(
                "saliency: without correct and incorrect examples these are not compared in figures"
            )
        for name, figure in all_figures(saved).items():
            write_bytes(self.folder / f"{stem}_{name}.png", png(figure))
            for logger in loggers:
                logger.experiment.add_figure(f"saliency/{name}", figure, step, close=False)

    def row(self, example: Measured, layers: Sequence[int]) -> dict[str, Any]:
        """An example's line of ``saliency.jsonl``; what a layer without prompt cannot have is null."""
        arrays = example.arrays
        # The layer where a virtual token stands out most, and which token that is.
        sent = arrays["from_token"].nan_to_num()
        found = torch.stack([_accumulating(row, self.alpha) for row in arrays["from_token"]])
        accumulation = None
        if found.any():
            layer, token = divmod(int((sent * found).argmax()), sent.shape[1])
            accumulation = {"layer": layers[layer], "token": token}
        return {
            "id": example.id,
            "correct": example.correct,
            "prompt_to_question": _numbers(arrays["to_question"]),
            "prompt_to_rationale": _numbers(arrays["to_rationale"]),
            "accumulation": accumulation,
            "late_flow": _numbers(arrays["late"]),
            "curve": curve_shape(arrays["curve"])._asdict(),
            "loss": float(arrays["loss"]),
        }


# Arrays whose means over examples are curves over layers.
CURVES = {"to_question": "prompt_to_question", "to_rationale": "prompt_to_rationale", "curve": "curve"}


def _row(diagnosis: Diagnosis, row: int) -> dict[str, Tensor]:
    fields = {name: value for name, value in vars(diagnosis).items() if isinstance(value, Tensor)}
    return {name: value[row].detach().cpu() for name, value in fields.items()}


def _accumulating(from_token: Tensor, alpha: float) -> Tensor:
    """(M,) bool: which of a layer's virtual tokens accumulate; those it does not see never do."""
    seen = ~from_token.isnan()
    found = torch.zeros_like(seen)
    found[seen] = accumulates(from_token[seen][None], alpha)[0]
    return found


def _numbers(values: Tensor) -> Any:
    """Plain numbers for JSON, null for NaN."""
    if values.ndim:
        return [_numbers(value) for value in values]
    return None if values.isnan() else float(values)

"""Attention calibration of chosen heads while questions are answered (ACT, Yu et al. 2024), without training.

Writes ``act.json`` where heads were searched. The loss of ``validate`` is that of the backbone as it is.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.act_file import FILE, HeadSearch, kept_heads, load_search, save_search
from promptstage.callbacks.examples import data_of
from promptstage.datamodules.loaders import EvaluationLoader
from promptstage.datamodules.repeats import warn_repeated
from promptstage.lightning_modules.backbone.calibration import Calibration
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.distribution import needs_whole_backbone
from promptstage.lightning_modules.evaluation import Decoding, answer
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import make_folder
from promptstage.utilities.progress import plain_bar

LEAST_LAYERS = 5


class ACT(L.Callback):
    """Calibrates attention heads in ``validate``, ``test`` and ``predict``, with any method.

    Without ``heads``, training questions decide at the start of the evaluation: each head of layers 2 to
    L − 2 is calibrated alone, and kept when not fewer answers are correct than without (ours: the public code
    lists heads). All questions are answered once for each head, shared by the processes; ``act.json`` saves
    that the next time.

    Args:
        heads: heads by layer, or an ``act.json`` or the folder with one; None: search.
        examples: the first so many training questions decide; unused with ``heads``.
        threshold: score above which a column is detected.
        beta: what a sink's weights are multiplied by; 1 changes nothing.
        soft_tokens: virtual tokens may be sinks.
        folder: where ``act.json`` goes; None: to the results.

    Raises:
        UserError: when a number is not allowed; later when a head does not exist, a file belongs to another
            backbone or other settings, or there are too few layers or training questions to search.
    """

    correction = "ACT"  # what a summary calls it

    def __init__(
        self,
        heads: dict[int, list[int]] | Path | None = None,
        examples: int = 64,
        threshold: float = 0.1,
        beta: float = 0.4,
        soft_tokens: bool = True,
        folder: Path | None = None,
    ) -> None:
        if examples < 1:
            raise UserError(f"ACT with {examples} examples: allowed are 1 and more")
        for name, value in (("threshold", threshold), ("beta", beta)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} of ACT is {value}: allowed is 0 to 1")
        self.heads, self.examples, self.folder = heads, examples, folder
        self.calibration = Calibration({}, threshold, beta, soft_tokens)
        self._questions: EvaluationLoader | None = None

    # --- when ---------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check what was given, before any work, and have training questions ready."""
        assert isinstance(pl_module, SoftPromptModule)
        if stage == "fit":
            raise UserError(
                "ACT calibrates how questions are answered: use it with validate, test or predict"
            )
        backbone = pl_module.load_backbone()
        if self.heads is None:
            needs_whole_backbone("ACT's search of heads", trainer)
            if backbone.num_layers < LEAST_LAYERS:
                raise UserError(
                    f"ACT searches heads in layers 2 to L - 2 of {LEAST_LAYERS} layers or more, but backbone "
                    f"'{backbone.config.name}' has {backbone.num_layers}: name the heads"
                )
            self._questions = data_of(trainer).training_questions(self.examples)
            self._make_folder(trainer)
            return
        if isinstance(self.heads, Mapping):
            heads, source = self.heads, "heads of ACT"
        else:
            heads, source = load_search(self.heads, backbone, self.calibration).heads, str(self.heads)
        pl_module.check_layers(source, list(heads))
        for layer, chosen in heads.items():
            for head in chosen:
                if not 0 <= head < backbone.num_heads:
                    raise UserError(
                        f"{source} names head {head} of layer {layer}, but backbone '{backbone.config.name}' "
                        f"has heads 0 to {backbone.num_heads - 1}"
                    )
        self.calibration = self._of({layer: sorted(set(chosen)) for layer, chosen in heads.items() if chosen})

    def _start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._questions is not None:
            found = self._search(trainer, pl_module, self._questions)
            if trainer.is_global_zero and self.folder is not None:
                save_search(found, self.folder / FILE)
            self.calibration = self._of(found.heads)
        chosen = self.calibration.heads
        named = "; ".join(f"layer {layer}: {', '.join(map(str, heads))}" for layer, heads in chosen.items())
        rank_zero_info(f"ACT calibrates {sum(map(len, chosen.values()))} heads{named and f' ({named})'}")
        pl_module.decoding.calibration = self.calibration if chosen else None

    on_validation_start = on_test_start = on_predict_start = _start

    def _end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.decoding.calibration = None

    on_validation_end = on_test_end = on_predict_end = _end

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._end(trainer, pl_module)

    def _of(self, heads: Mapping[int, list[int]]) -> Calibration:
        return replace(self.calibration, heads=heads)

    def _make_folder(self, trainer: L.Trainer) -> None:
        """Before the search, not after it."""
        if self.folder is not None and trainer.is_global_zero:
            make_folder(self.folder)

    # --- search -------------------------------------------------------------------------------------

    def _search(
        self, trainer: L.Trainer, module: SoftPromptModule, questions: EvaluationLoader
    ) -> HeadSearch:
        started = time.monotonic()
        backbone, data, own = module.backbone, data_of(trainer), self.calibration
        layers, heads = range(2, backbone.num_layers - 1), range(backbone.num_heads)
        alone = [self._of({layer: [head]}) for layer in layers for head in heads]
        rank_zero_info(
            f"ACT tries {len(alone)} heads of layers {layers[0]} to {layers[-1]}, each on {self.examples} "
            "training questions"
        )
        without, *correct = self._count(trainer, module, questions, [None, *alone])
        warn_repeated("the choice of heads", [row.example.question for row in questions.rows])
        counts = {layer: correct[i * len(heads) :][: len(heads)] for i, layer in enumerate(layers)}
        kept = kept_heads(counts, without)
        (together,) = self._count(trainer, module, questions, [self._of(kept)])
        rank_zero_info(
            f"ACT keeps {sum(map(len, kept.values()))} of {len(alone)} heads: of {self.examples} training "
            f"questions {without} are answered correctly without any, not fewer with each of these alone, "
            f"and {together} with all of them; {time.monotonic() - started:.1f} s"
        )
        if not without:
            rank_zero_info(
                "warning: without calibration no training question is answered correctly: every head is "
                "kept, whatever it does"
            )
        return HeadSearch(
            heads=kept,
            without=without,
            together=together,
            counts=counts,
            threshold=own.threshold,
            beta=own.beta,
            soft_tokens=own.soft_tokens,
            examples=self.examples,
            split="train",
            data=data.name,
            template=data.template,
            method=type(module).__name__,
            backbone=backbone.config.name,
            fingerprint=backbone.fingerprint,
        )

    def _count(
        self,
        trainer: L.Trainer,
        module: SoftPromptModule,
        questions: EvaluationLoader,
        tried: Sequence[Calibration | None],
    ) -> list[int]:
        """How many questions all processes answer correctly with each calibration."""
        counts = torch.zeros(len(tried), dtype=torch.int64, device=module.device)
        # As in an evaluation step; gradients are off for trainers without inference mode, too.
        with (
            torch.no_grad(),
            trainer.precision_plugin.forward_context(),
            plain_bar(trainer, "Heads", len(tried), "heads") as bar,
        ):
            prefix = module.prefix()
            for number, calibration in enumerate(tried):
                decoding = Decoding(calibration=calibration)
                for batch in questions:
                    answers = answer(module.backbone, batch.to(module.device), prefix, decoding)
                    counts[number] += sum(record.correct for record in answers["records"])
                bar.update()
        return trainer.strategy.reduce(counts, reduce_op="sum").tolist()

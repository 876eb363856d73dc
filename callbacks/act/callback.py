"""Attention calibration (ACT) of selected heads during generation, without training.

"Unveiling and harnessing hidden attention sinks: enhancing large language models without training through
attention calibration", Yu et al., ICML 2024, arXiv:2406.15765.

A search writes ``act.json``. The loss of ``validate`` is computed without attention calibration.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.act.files import FILE, HeadSearch, load_search, save_search, select_heads
from promptstage.callbacks.examples import data_of
from promptstage.datamodules.loaders import EvaluationLoader
from promptstage.datamodules.repeats import warn_repeated
from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration, CalibratedHeads
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.act import ACTDecoder
from promptstage.lightning_modules.decoding.decoder import Decoder
from promptstage.lightning_modules.decoding.engines import engine_of, generate_batch
from promptstage.lightning_modules.decoding.records import grade_batch
from promptstage.lightning_modules.distribution import needs_whole_backbone
from promptstage.utilities.checks import check_between, check_minimum
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import make_folder
from promptstage.utilities.plurals import ranged
from promptstage.utilities.progress import plain_bar

MIN_LAYERS = 5  # of a search


class ACT(L.Callback):
    """Attention calibration in ``validate``, ``test`` and ``predict``, with any method.

    Attention weights of sinks (columns whose mean weight exceeds ``threshold``) are multiplied by ``beta`` in
    the selected heads; the other columns of a row share the difference.

    Without ``heads``, a search at the start of the evaluation selects them on training questions: each head
    of layers 2 to L − 2 is calibrated alone, and selected if at least as many answers are correct as without
    attention calibration (the authors' code has a list of heads instead). It answers all questions once per
    head, sharded over ranks; ``heads`` reads its ``act.json`` the next time.

    Usage, first with a search and then with its heads::

        promptstage test --ckpt_path runs/first --trainer.callbacks ACT
        promptstage test --ckpt_path runs/first --trainer.callbacks ACT \\
            --trainer.callbacks.heads runs/first/test

    The same in a YAML file, with given heads by layer::

        trainer:
          callbacks:
            - class_path: promptstage.ACT
              init_args:
                heads: {2: [0, 5], 3: [1]}

    Args:
        heads: heads by layer, or an ``act.json`` or the folder with one; None: search.
        examples: number of training questions of the search, from the first; unused with ``heads``.
        threshold: mean attention weight above which a column is detected.
        beta: factor of a sink's weights; 1 changes nothing.
        soft_tokens: virtual tokens may be sinks.
        folder: folder for ``act.json``; None: the results' folder.

    Raises:
        UserError: if a number is not allowed; later if a head does not exist, a file belongs to another
            backbone or other settings, or there are too few layers or training questions to search.
    """

    correction = "ACT"  # name in a summary

    def __init__(
        self,
        heads: dict[int, list[int]] | Path | None = None,
        examples: int = 64,
        threshold: float = 0.1,
        beta: float = 0.4,
        soft_tokens: bool = True,
        folder: Path | None = None,
    ) -> None:
        check_minimum({"examples": examples}, 1)
        check_between({"threshold of ACT": threshold, "beta of ACT": beta}, 0, 1)
        self.heads, self.examples, self.folder = heads, examples, folder
        self.settings = AttentionCalibration({}, threshold, beta, soft_tokens)
        self._questions: EvaluationLoader | None = None
        self._replaced: Decoder | None = None

    # --- hooks ---------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check the heads, or load the training questions of the search."""
        assert isinstance(pl_module, SoftPromptModule)
        if stage == "fit":
            raise UserError(
                "ACT calibrates attention during generation: use it with validate, test or predict, "
                "not with fit"
            )
        backbone = pl_module.load_backbone()
        if self.heads is None:
            needs_whole_backbone("ACT's search of heads", trainer)
            backbone.check_attention("the search of ACT", ())
            if backbone.num_layers < MIN_LAYERS:
                raise UserError(
                    f"the search of ACT needs a backbone of at least {MIN_LAYERS} layers, but backbone "
                    f"'{backbone.config.name}' has {backbone.num_layers}: set heads"
                )
            if not _searched_layers(backbone):
                raise UserError(
                    f"the search of ACT needs attention in layers 2 to {backbone.num_layers - 2}, but only "
                    f"layers {backbone.attending} of backbone '{backbone.config.name}' have it: set heads"
                )
            self._questions = data_of(trainer).training_questions(self.examples)
            self._make_folder(trainer)
            return
        if isinstance(self.heads, Mapping):
            heads, source = self.heads, "heads of ACT"
        else:
            heads, source = load_search(self.heads, backbone, self.settings).heads, str(self.heads)
        pl_module.check_layers(source, list(heads))
        backbone.check_attention(source, heads)
        for layer, chosen in heads.items():
            for head in chosen:
                if not 0 <= head < backbone.num_heads:
                    raise UserError(
                        f"{source} names head {head} of layer {layer}, but backbone '{backbone.config.name}' "
                        f"has heads 0 to {backbone.num_heads - 1}"
                    )
        self.settings = self._of({layer: sorted(set(chosen)) for layer, chosen in heads.items() if chosen})

    def _start(self, trainer: L.Trainer, pl_module: Any) -> None:
        engine = engine_of(pl_module.decoder, "ACT")  # raises before the search
        if self._questions is not None:
            search = self._search(trainer, pl_module, self._questions)
            if trainer.is_global_zero and self.folder is not None:
                save_search(search, self.folder / FILE)
            self.settings = self._of(search.heads)
        chosen = self.settings.heads
        named = "; ".join(f"layer {layer}: {', '.join(map(str, heads))}" for layer, heads in chosen.items())
        rank_zero_info(f"ACT calibrates {sum(map(len, chosen.values()))} heads{named and f' ({named})'}")
        if chosen:
            self._replaced = pl_module.decoder
            pl_module.decoder = ACTDecoder(engine, self.settings)

    on_validation_start = on_test_start = on_predict_start = _start

    def _end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._replaced is not None:
            pl_module.decoder, self._replaced = self._replaced, None

    on_validation_end = on_test_end = on_predict_end = _end

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._end(trainer, pl_module)

    def _of(self, heads: Mapping[int, list[int]]) -> AttentionCalibration:
        return replace(self.settings, heads=heads)

    def _make_folder(self, trainer: L.Trainer) -> None:
        """Make the folder, so that an unusable one is reported before the search."""
        if self.folder is not None and trainer.is_global_zero:
            make_folder(self.folder)

    # --- search -------------------------------------------------------------------------------------

    def _search(
        self, trainer: L.Trainer, module: SoftPromptModule, questions: EvaluationLoader
    ) -> HeadSearch:
        started = time.monotonic()
        backbone, data, own = module.backbone, data_of(trainer), self.settings
        layers, heads = _searched_layers(backbone), range(backbone.num_heads)
        alone = [self._of({layer: [head]}) for layer in layers for head in heads]
        rank_zero_info(
            f"ACT tries {len(alone)} heads of {ranged(layers, 'layer')}, each on {self.examples} "
            "training questions"
        )
        without, *correct = self._count(trainer, module, questions, [None, *alone])
        warn_repeated("the choice of heads", [row.example.question for row in questions.rows])
        counts = {layer: correct[i * len(heads) :][: len(heads)] for i, layer in enumerate(layers)}
        selected = select_heads(counts, without)
        (together,) = self._count(trainer, module, questions, [self._of(selected)])
        rank_zero_info(
            f"ACT selects {sum(map(len, selected.values()))} of {len(alone)} heads: of {self.examples} "
            f"training questions {without} are answered correctly without attention calibration, at least "
            f"as many with each of these heads alone, and {together} with all of them; "
            f"{time.monotonic() - started:.1f} s"
        )
        if not without:
            rank_zero_info(
                "warning: no training question is answered correctly without attention calibration: every "
                "head is selected, regardless of its effect"
            )
        return HeadSearch(
            heads=selected,
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
        candidates: Sequence[AttentionCalibration | None],
    ) -> list[int]:
        """Count the questions that all ranks together answer correctly, for each of the settings."""
        counts = torch.zeros(len(candidates), dtype=torch.int64, device=module.device)
        # As in an evaluation step; no gradients, also in trainers without inference mode.
        with (
            torch.no_grad(),
            trainer.precision_plugin.forward_context(),
            plain_bar(trainer, "Heads", len(candidates), "heads") as bar,
        ):
            prefix, backbone, tokenizer = module.prefix(), module.backbone, module.tokenizer
            for number, settings in enumerate(candidates):
                hooks = [] if settings is None else [CalibratedHeads(settings)]
                with backbone.hooked(*hooks):
                    for batch in questions:
                        batch = batch.to(module.device)
                        records = grade_batch(tokenizer, batch, generate_batch(backbone, batch, prefix))
                        counts[number] += sum(record.correct for record in records)
                bar.update()
        return trainer.strategy.reduce(counts, reduce_op="sum").tolist()


def _searched_layers(backbone: Backbone) -> list[int]:
    """Return the layers with attention among 2 to L − 2."""
    return [layer for layer in range(2, backbone.num_layers - 1) if layer in backbone.attention_layers]

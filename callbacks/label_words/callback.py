"""Label words as anchors of in-context learning: flows, isolation, extraction, compression, diagnosis.

"Label words are anchors: an information flow perspective for understanding in-context learning", Wang et al.,
EMNLP 2023, arXiv:2305.14160.

Writes ``label_words.json``, ``label_words.jsonl`` and figures, and logs scalars and figures.
"""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.examples import SPLITS, check_gradients, data_of, gather_by_id
from promptstage.callbacks.label_words.files import Floats, Measured, stacked, write_files
from promptstage.callbacks.label_words.report import report, summary_line
from promptstage.callbacks.run.loggers import run_name
from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.loading import context_length
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.distribution import needs_whole_backbone
from promptstage.lightning_modules.label_word_summary import summarize
from promptstage.lightning_modules.label_words import (
    ANALYSES,
    NEED_CONTEXTS,
    Analysis,
    LabelWordRuns,
    Settings,
    check_demonstrations,
    layers_of,
)
from promptstage.utilities.checks import check_maximum, check_minimum
from promptstage.utilities.errors import UserError, choose
from promptstage.utilities.files import make_folder

DEPTHS = (1, 3, 5, 7)
TOP_WORDS, RANDOM_DRAWS = 5, 20
OTHER_DRAWS = 32  # draws of demonstrations whose keys the diagnosis uses


class LabelWords(L.Callback):
    """Measures of label words in ``validate``, ``test`` and ``predict``, with any method.

    The data need label words and demonstrations: ``--data.demonstrations_per_class 1``. The analyses:

    - ``flows``: S_wp, S_pq and S_ww by layer, the saliency to label words, from them to the last token of the
      prompt, and among all other tokens;
    - ``isolation``: agreement with the untouched model when label words, or random words, attend to nothing
      before them in the first or last layers;
    - ``extraction``: AUCROC_l and R_l, how well attention on label words predicts the model's prediction;
    - ``compression``: agreement, accuracy and speed when only label words and formatting remain of the
      demonstrations, as keys and values (``hidden_anchor``) or as text (``text_anchor``), against random
      words;
    - ``diagnosis``: distances between the keys of label words against the confusion of classes, by layer,
      with their rank correlation, which needs at least three classes.

    Usage::

        promptstage test --data Classification --data.task trec --data.source data/trec \\
            --data.demonstrations_per_class 1 --trainer.callbacks LabelWords

    The same in a YAML file, without the 20 passes over random words::

        trainer:
          callbacks:
            - class_path: promptstage.LabelWords
              init_args:
                analyses: [flows, isolation, extraction]

    Args:
        analyses: analyses to run; None: all.
        isolated_layers: numbers of first and of last layers in which tokens are isolated; None: 1, 3, 5 and
            7, without those that exceed the layers of the backbone.
        examples: number of examples of the split, from the first; None: all.
        top_words: number of most likely tokens that word loyalty compares.
        random_draws: number of draws of random words; the one with the greatest label loyalty is the best.
        folder: folder for the files; None: the run's, and no files in ``predict``.

    Attributes:
        summary: contents of ``label_words.json``, once an evaluation has ended, on rank 0.

    Raises:
        UserError: if an analysis is unknown or a number is not allowed; later if data have no label words or
            no demonstrations, or the backbone no attention, too few layers or too short a window.
    """

    def __init__(
        self,
        analyses: list[Analysis] | None = None,
        isolated_layers: list[int] | None = None,
        examples: int | None = None,
        top_words: int = TOP_WORDS,
        random_draws: int = RANDOM_DRAWS,
        folder: Path | None = None,
    ) -> None:
        chosen = list(ANALYSES) if analyses is None else analyses
        for name in chosen:
            choose("analyses", name, ANALYSES)
        if not chosen:
            raise UserError(f"analyses must name at least one of {', '.join(ANALYSES)}, got []")
        if isolated_layers is not None:
            check_minimum({"isolated_layers": min(isolated_layers, default=0)}, 1)
        check_minimum({"examples": examples, "top_words": top_words, "random_draws": random_draws}, 1)
        self.analyses: tuple[Analysis, ...] = tuple(dict.fromkeys(chosen))
        self.depths = None if isolated_layers is None else tuple(sorted(set(isolated_layers)))
        self.examples, self.top_words, self.random_draws = examples, top_words, random_draws
        self.folder = folder
        self._check_used()
        self.takes_gradients = "flows" in self.analyses
        self.summary: dict[str, Any] | None = None
        self.measured: list[Measured] = []
        self.settings: Settings | None = None
        self._runs: LabelWordRuns | None = None
        self._keys: tuple[Floats, Floats] | None = None

    def _check_used(self) -> None:
        """Check that each option that is set affects one of the analyses.

        Raises:
            UserError: naming the option, and the analyses that use it.
        """
        options: dict[str, tuple[bool, tuple[Analysis, ...]]] = {
            "isolated_layers": (self.depths is not None, ("isolation",)),
            "top_words": (self.top_words != TOP_WORDS, NEED_CONTEXTS),
            "random_draws": (self.random_draws != RANDOM_DRAWS, ("compression",)),
        }
        for name, (is_set, users) in options.items():
            if is_set and not {*users} & {*self.analyses}:
                raise UserError(
                    f"{name} needs {' or '.join(users)} in analyses, got {', '.join(self.analyses)}"
                )

    # --- hooks ---------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            UserError: in ``fit``, if gradients cannot be computed, the method changes attention, or the data
                have no label words.
        """
        assert isinstance(pl_module, SoftPromptModule)
        if stage == "fit":
            raise UserError("LabelWords measures predictions: use it with validate, test or predict, not fit")
        if self.takes_gradients:
            check_gradients(trainer, "the flow of label words")
        needs_whole_backbone("LabelWords", trainer)
        pl_module.check_unchanged_attention("LabelWords")
        data = data_of(trainer)
        if not data.uses_label_words:
            remedy = "set --data.demonstrations_per_class 1"
            if not data.class_words():
                remedy = "use Classification, or multiple choice such as ARC"
            raise UserError(
                f"LabelWords needs label words, but data set {data.name} does not use any: {remedy}"
            )
        check_demonstrations(data.prompt_format().shots, f"data set {data.name}")
        if "diagnosis" in self.analyses:
            own = {"demonstrations_per_class": data.demonstrations_per_class}
            check_minimum(own, 1, "the diagnosis of LabelWords draws others")

    def _start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Check layers and prompts, and record the keys of label words, before the evaluation starts."""
        assert isinstance(pl_module, SoftPromptModule)
        backbone, data, split = pl_module.backbone, data_of(trainer), SPLITS[trainer.state.fn or ""]
        backbone.check_weights("label words")
        layers = layers_of(backbone, self.depths or ())
        depths = self._depths(backbone.config.name, len(layers)) if "isolation" in self.analyses else ()
        check_maximum({"top_words": self.top_words}, backbone.vocab_size, "tokens of the vocabulary")
        self.settings = Settings(self.analyses, layers, depths, self.top_words, self.random_draws)
        prefix = pl_module.evaluation_prefix()
        self._runs = LabelWordRuns(backbone, prefix, self.settings)
        lengths = data.encoded(split).prompt_lengths[: self.examples]
        self._runs.check_contexts(max(lengths, default=0) - (0 if prefix is None else prefix.num_leading))
        self.measured, self._keys, self.summary = [], None, None
        if "diagnosis" in self.analyses and trainer.is_global_zero and not trainer.sanity_checking:
            limit = context_length(backbone.config)
            if limit is not None and prefix is not None:
                limit -= prefix.num_positions
            others = data.other_demonstrations(split, OTHER_DRAWS, limit).to(pl_module.device)
            keys, classes = self._runs.keys(others)
            self._keys = keys.double().cpu().numpy(), classes.cpu().numpy()

    def _depths(self, backbone: str, layers: int) -> tuple[int, ...]:
        """Return the numbers of layers with isolated tokens; by default those that the backbone has."""
        if self.depths is not None:
            return self.depths
        depths = tuple(depth for depth in DEPTHS if depth <= layers)
        if depths != DEPTHS:
            rank_zero_info(
                f"isolated_layers: {', '.join(map(str, depths))}, since backbone '{backbone}' has {layers} "
                "layers with attention"
            )
        return depths

    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = _start

    def _batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        if trainer.sanity_checking:
            return
        chosen = set(self._ids(trainer))
        batch = batch.select([row for row, example in enumerate(batch.examples) if example.id in chosen])
        if not len(batch):
            return
        assert self._runs is not None
        arrays = self._runs.measure(batch)
        for row, example in enumerate(batch.examples):
            self.measured.append(
                Measured(example.id, {name: part[row].cpu() for name, part in arrays.items()})
            )

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _batch_end  # type: ignore[assignment]  # fewer arguments

    def _end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        ids = self._ids(trainer)
        self.measured = gather_by_id(self.measured, ids)
        self._runs = None
        if not trainer.is_global_zero:
            return
        if len(self.measured) < len(ids):
            rank_zero_info(
                f"label words: {len(ids) - len(self.measured)} of {len(ids)} examples not evaluated"
            )
        if self.measured:
            self._finish(trainer, pl_module)

    on_validation_end = on_test_end = on_predict_end = _end

    def _ids(self, trainer: L.Trainer) -> list[str]:
        """Return the ids of the examples to measure, in the order of the split."""
        return data_of(trainer).example_ids(SPLITS[trainer.state.fn or ""])[: self.examples]

    def _finish(self, trainer: L.Trainer, module: SoftPromptModule) -> None:
        """Summarize the measures; write files and log values, unless there is no folder."""
        assert self.settings is not None
        data, split = data_of(trainer), SPLITS[trainer.state.fn or ""]
        words, arrays = data.class_words(), stacked(self.measured)
        about = {
            "split": split,
            "data": data.name,
            "method": type(module).__name__,
            "backbone": module.backbone_config.name,
        }
        self.summary = about | summarize(self.settings, words, arrays, self._keys)
        if self.folder is None:
            rank_zero_info(summary_line(self.summary))
            return
        make_folder(self.folder)
        write_files(self.folder, self.summary, self.settings, words, self.measured)
        subject = f"{run_name(self.folder)}; {about['method']} on {about['backbone']}; {data.name} {split}"
        report(trainer, self.folder, self.summary, subject)

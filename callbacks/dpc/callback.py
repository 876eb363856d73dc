"""Dynamic Prompt Corruption (DPC): correction of answers that the soft prompt leads astray.

"Improving complex reasoning with Dynamic Prompt Corruption", Fan et al., ICLR 2025, arXiv:2503.13208 (§3).

In ``validate``, ``test`` and ``predict``: generate, trigger, corrupt, generate again, grade. Writes
``dpc.jsonl`` (a line per example), ``dpc_summary.json`` and figures; the corrected answer counts in all other
results (``results.jsonl``, accuracies). Logs to TensorBoard ``dpc/before_after`` (text), ``dpc/trigger``
(distribution of R, precision and recall), ``dpc/R`` (histogram), the scalars ``dpc/accuracy_before``,
``dpc/accuracy_after`` and ``dpc/share_triggered`` and, for a calibration, ``dpc/threshold``.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.act.callback import ACT
from promptstage.callbacks.dpc.files import (
    RATIO,
    CalibrationConditions,
    calibrate,
    calibration_file,
    choose_calibration_file,
    correction_line,
    parse_correction,
    read_calibration,
)
from promptstage.callbacks.dpc.report import report
from promptstage.callbacks.examples import SPLITS, check_gradients, data_of, gather_by_id
from promptstage.callbacks.run.loggers import run_name
from promptstage.callbacks.run.partial_lines import PartialLines
from promptstage.callbacks.run.resumed import read_partial
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.corruption import Corruption, Removal
from promptstage.lightning_modules.decoding.decoder import Decoder
from promptstage.lightning_modules.decoding.dpc import THRESHOLD_MODES, Correction, DPCDecoder, Mode
from promptstage.lightning_modules.decoding.engines import Engine, engine_of
from promptstage.lightning_modules.functional.corruption import BetaMode
from promptstage.lightning_modules.functional.information_flow import AccumulateOver
from promptstage.lightning_modules.visibility import visible_layers
from promptstage.utilities.checks import check_between
from promptstage.utilities.errors import UserError, choose
from promptstage.utilities.files import make_folder
from promptstage.utilities.recorded import recorded_settings


class DPC(L.Callback):
    """Correction of generations by Dynamic Prompt Corruption (DPC §3).

    For each generation R is computed: the share of tokens in the second half of the rationale whose flow from
    the soft prompt, in the last layer, exceeds β, the mean of the first half. If R exceeds the threshold, the
    virtual token that accumulates most flow in the shallow layers and the smallest entries of the others
    become 0, and the answer is generated again.

    Usage, with the threshold calibrated on the validation split::

        promptstage calibrate --ckpt_path runs/first --trainer.callbacks DPC
        promptstage test --ckpt_path runs/first --trainer.callbacks DPC

    The same in a YAML file, with a given threshold::

        trainer:
          callbacks:
            - class_path: promptstage.DPC
              init_args:
                threshold: 0.5
    """

    takes_gradients = True

    def __init__(
        self,
        mode: Mode = "dpc",
        threshold: float | Path | None = None,
        gamma: float = 10.0,
        alpha: float | None = None,
        beta: BetaMode = "mean",
        shallow: list[int] | None = None,
        removal: Removal = "zero",
        accumulate_over: AccumulateOver = "span",
        seed: int = 0,
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            mode: ``dpc``: correct triggered examples; ``all``: every example; ``random``: triggered ones,
                with a random virtual token instead of the accumulating one; ``random_all``: every example,
                with a random token (DPC's Table 2 allows both readings of 'random'); ``none``: only measure.
            threshold: value of R above which an example is triggered; a path: folder or file written by
                ``calibrate``; None: the calibration beside the checkpoint.
            gamma: percentage of the other virtual tokens' entries that become 0, the smallest ones (DPC: 10).
            alpha: corrupt only a token whose flow is this factor above the mean; None: the strongest token.
            beta: statistic of the first half's flow above which a token is affected: mean (DPC), median or
                max.
            shallow: layers to search for the accumulating token; None: the first third of the layers that
                see the prompt, without the first.
            removal: ``zero`` (DPC): the token's vector becomes 0; ``drop``: the token is masked.
            accumulate_over: rows whose flow counts for accumulation: ``span`` (DPC eq. 7): from the
                question's first token to the rationale's last; ``question_and_rationale``: without the tokens
                between the two.
            seed: seed of ``random`` and ``random_all``.
            folder: folder for the files; None: the results' folder, and no files in ``predict``.

        Raises:
            UserError: if a value is not allowed.
        """
        choose("mode", mode, get_args(Mode))
        self.mode: Mode = mode
        if isinstance(threshold, int | float):
            check_between({"threshold": threshold}, 0, 1)
        if threshold is not None and self.mode not in THRESHOLD_MODES:
            modes = ", ".join(THRESHOLD_MODES)
            raise UserError(f"threshold has no effect in mode {self.mode}: allowed in {modes}")
        chosen = None if shallow is None else tuple(shallow)
        self.corruption = Corruption(gamma, alpha, beta, chosen, removal, accumulate_over)
        self.source = threshold if isinstance(threshold, Path) else None
        self.threshold = None if isinstance(threshold, Path) else threshold
        self.seed, self.folder = seed, folder
        self.calibrating = False
        self.target: Path | None = None
        self.partial: PartialLines | None = None
        self.decoder: DPCDecoder | None = None
        self._replaced: Decoder | None = None
        self.done: list[Correction] = []
        self.restored: dict[str, Correction] = {}

    @property
    def correction(self) -> str | None:
        """Name of the correction in a summary; None if nothing is corrected."""
        return None if self.mode == "none" else f"DPC, mode {self.mode}"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            UserError: in ``fit``, or if gradients cannot be computed.
        """
        if trainer.state.fn == "fit":
            raise UserError("DPC corrects evaluations: use it with validate, test or predict, not with fit")
        if any(isinstance(callback, ACT) for callback in trainer.callbacks):  # type: ignore[attr-defined]  # set by a connector
            raise UserError("DPC and ACT both correct answers: use one of them")
        check_gradients(trainer, "DPC")
        if self.folder is not None:
            self.partial = PartialLines(self.folder / "dpc.jsonl", trainer)
            self._read(trainer)
        if self.calibrating:
            assert isinstance(pl_module, SoftPromptModule)
            pl_module.validation_tags = ("calibrate/loss", "calibrate/accuracy_all_corrected")

    def _read(self, trainer: L.Trainer) -> None:
        """Read the corrections of an interrupted test; questions without one are answered again."""
        assert self.partial is not None
        path = self.partial.path
        records = {line["id"]: line for line in read_partial(path.with_name("results.jsonl"))}
        lines = {line["id"]: line for line in read_partial(path)}
        if records or lines:
            both = records.keys() & lines.keys()
            self.restored = {name: parse_correction(lines[name], records[name], path) for name in both}
            data_of(trainer).skip(both)

    def _begin(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Check layers, threshold and folders before the evaluation starts."""
        prefix = self._prefix(pl_module)
        pl_module.backbone.check_attention("Dynamic Prompt Corruption", ())
        self.layers = self.corruption.layers(prefix)
        pl_module.backbone.check_attention("shallow", self.layers)
        if self.mode in THRESHOLD_MODES and self.threshold is None:
            path = self.source or calibration_file(trainer.ckpt_path)
            calibration = read_calibration(path, trainer.ckpt_path, self._conditions(trainer, pl_module))
            self.threshold = calibration.threshold
            rank_zero_info(
                f"DPC: threshold {self.threshold:.4g} of {RATIO}, from {path} ({calibration.n} "
                f"{calibration.split} examples)"
            )
        if self.folder is not None and trainer.is_global_zero:
            make_folder(self.folder)  # so that an unusable folder is reported now
        if self.folder is not None and self.calibrating:
            self.target = choose_calibration_file(trainer.ckpt_path, self.folder)
        skipped = data_of(trainer).skipped or set()
        restored = self.restored.items()
        self._replaced, self.done = pl_module.decoder, [own for name, own in restored if name in skipped]
        self.decoder = DPCDecoder(
            self._engine(pl_module.decoder),
            self.corruption,
            self.mode,
            self.threshold,
            data_of(trainer).eval_batch_size,
            self.seed,
        )
        pl_module.decoder = self.decoder

    on_validation_start = on_test_start = on_predict_start = _begin

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if self._replaced is not None:
            pl_module.decoder, self._replaced = self._replaced, None
        if self.partial is not None and trainer.is_global_zero:
            self.partial.remove()

    @staticmethod
    def _engine(decoder: Decoder) -> Engine:
        """Return the decoder, if its generations can be corrected.

        Raises:
            UserError: if it is no engine, or generates several samples.
        """
        engine = engine_of(decoder, "DPC")
        if engine.num_samples > 1:
            raise UserError(
                f"num_samples must be 1 with DPC, which corrects single generations, got {engine.num_samples}"
            )
        return engine

    def _prefix(self, module: SoftPromptModule) -> Prefix:
        with torch.no_grad():
            prefix = module.evaluation_prefix()
        if prefix is None or not module.vectors():
            raise UserError(f"{type(module).__name__} has no soft prompt: DPC has nothing to corrupt")
        return prefix

    def _conditions(self, trainer: L.Trainer, module: SoftPromptModule) -> CalibrationConditions:
        """Return the conditions that a threshold is valid for; R depends on the precision."""
        dtype = str(module.backbone.dtype).removeprefix("torch.")
        engine = self._replaced or module.decoder
        decoder = {name: value for name, value in recorded_settings(engine).items() if name != "seed"}
        settings = asdict(self.corruption) | {"visible_layers": visible_layers(module), "decoder": decoder}
        return CalibrationConditions(data_of(trainer).name, settings, str(trainer.precision), dtype)

    def _batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        assert self.decoder is not None
        finished = [self.decoder.corrections[record.id] for record in outputs["records"]]
        self.done += finished
        if self.partial is not None:
            self.partial.append(map(correction_line, finished))

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _batch_end  # type: ignore[assignment]  # fewer arguments

    def _end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.partial is not None:
            self.partial.close()
        split = SPLITS[trainer.state.fn or ""]
        data = data_of(trainer)
        corrections = gather_by_id(self.done, data.example_ids(split))
        if not trainer.is_global_zero or not corrections or self.folder is None:
            return
        about = {"mode": self.mode, "threshold": self.threshold, "seed": self.seed, "layers": self.layers}
        conditions = self._conditions(trainer, pl_module)
        name = data.used_for(split).name
        about |= conditions.settings | {"dataset": name, "split": split}
        calibration = None
        if self.calibrating:
            assert trainer.ckpt_path is not None
            calibration = calibrate(corrections, split, conditions, trainer.ckpt_path)
        subject = (
            f"{run_name(self.folder)}; {type(pl_module).__name__} on {pl_module.backbone_config.name}; "
            f"{name} {split}, DPC mode {self.mode}"
        )
        report(trainer, self.folder, corrections, about, subject, calibration, self.target)

    on_validation_end = on_test_end = on_predict_end = _end

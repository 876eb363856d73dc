"""Uses of a prompt: fit, validate, test, predict, calibrate, saliency, label words, nearest words, partition.

Each function composes the trainer of a :class:`~promptstage.composition.session.Session` and runs it. The
command line and the Python API both call these.
"""

import sys
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from promptstage.callbacks.dpc.callback import DPC
from promptstage.callbacks.label_words.callback import LabelWords
from promptstage.callbacks.partition.callback import CKAPartition
from promptstage.callbacks.run.early_stopping import EarlyStoppingReport
from promptstage.callbacks.run.final_validation import FinalValidation
from promptstage.callbacks.run.loggers import StepAxis
from promptstage.callbacks.run.results import Results
from promptstage.callbacks.run.throughput import Throughput
from promptstage.callbacks.saliency.callback import SaliencyDiagnostics
from promptstage.callbacks.saliency.files import Saved, load
from promptstage.callbacks.words.anchor_factors import AnchorFactors
from promptstage.callbacks.words.callback import HardPromptText, NearestWords
from promptstage.callbacks.words.files import FILE as WORDS_FILE
from promptstage.callbacks.words.files import write_words
from promptstage.composition.session import Session, checkpoint_callbacks
from promptstage.composition.user_callbacks import check_monitors, choose_early_stopping
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoints import loaded_state, read_checkpoint
from promptstage.lightning_modules.decoding.records import Record
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.nearest_words import LayerWords, nearest_words
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError


def fit(
    session: Session,
    module: SoftPromptModule,
    data: ReasoningDataModule,
    save_every: int = 100,
    early_stopping: EarlyStopping | None = None,
) -> L.Trainer:
    """Train the prompt, resuming from the session's checkpoint if it has one.

    Args:
        save_every: optimizer steps between two writes of ``last.ckpt``.
        early_stopping: used unless the user's callbacks contain one.
    """
    folders, options = session.folders, session.options
    dry = bool(options.get("fast_dev_run"))
    writes = options.get("enable_checkpointing") is not False
    early_stopping = choose_early_stopping(session.callbacks, early_stopping)
    check_monitors(module, session.callbacks, early_stopping, options.get("limit_val_batches"))
    own: list[Any] = [CKAPartition(folders.run), Results(None), StepAxis(), Throughput()]
    readable = [NearestWords(folders.run), HardPromptText(folders.run), AnchorFactors(folders.run)]
    own += [] if dry else readable
    own += [
        FinalValidation(),
        EarlyStoppingReport(),
        session.hyperparameter_log(None if dry else folders.run),
    ]
    checkpoints = folders.run / "checkpoints"
    trainer = session.trainer(
        module,
        [*own, *(checkpoint_callbacks(checkpoints, save_every, module.monitor) if writes else [])],
        writes_config=not dry,
        logger=session.event_log(evaluates=False),
        checkpoints=checkpoints,
        early_stopping=early_stopping,
    )
    trainer.fit(module, datamodule=data, ckpt_path=session.checkpoint)
    if dry:
        folders.discard()
        rank_zero_info("fast_dev_run: training and validation ran; no files were written")
    return trainer


def partition(session: Session, module: SoftPromptModule, data: ReasoningDataModule) -> L.Trainer:
    """Group the backbone's layers into stages, without training.

    Raises:
        UserError: if the method has no stages.
    """
    if not isinstance(module, DHAM):
        raise UserError(f"model must be DHAM for partition, got {type(module).__name__}")
    trainer = session.trainer(
        module,
        [CKAPartition(session.folders.run)],
        logger=session.event_log(evaluates=False),
        max_steps=0,
        num_sanity_val_steps=0,
        fast_dev_run=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def validate(
    session: Session, module: SoftPromptModule, data: ReasoningDataModule, verbose: bool
) -> L.Trainer:
    """Compute loss and accuracy on the validation split."""
    own = [Results(session.folders.out), session.hyperparameter_log(session.folders.out)]
    trainer = session.trainer(module, own, logger=session.event_log(evaluates=True))
    trainer.validate(module, datamodule=data, ckpt_path=session.checkpoint, verbose=verbose)
    return trainer


def test(session: Session, module: SoftPromptModule, data: ReasoningDataModule, verbose: bool) -> L.Trainer:
    """Generate and grade an answer to each question of the test split."""
    out = session.folders.out
    own = [Results(out, session.arguments), session.hyperparameter_log(out)]
    trainer = session.trainer(module, own, logger=session.event_log(evaluates=True))
    trainer.test(module, datamodule=data, ckpt_path=session.checkpoint, verbose=verbose)
    return trainer


def calibrate(
    session: Session, module: SoftPromptModule, data: ReasoningDataModule, examples: int | None = None
) -> L.Trainer:
    """Find the threshold of Dynamic Prompt Corruption (DPC) on the validation split.

    Args:
        examples: number of validation questions; None: all.

    Raises:
        UserError: without a checkpoint, or with callbacks that already fix mode or threshold.
    """
    if not session.checkpoint:
        raise UserError("calibrate needs a trained prompt: give --ckpt_path RUN")
    check_minimum({"examples": examples}, 1)
    module.val_generations = examples or sys.maxsize
    session.options = {**session.options, "callbacks": _with_calibrating_dpc(session.callbacks)}
    own = [Results(session.folders.out), session.hyperparameter_log(session.folders.out)]
    trainer = session.trainer(module, own, logger=session.event_log(evaluates=True))
    trainer.validate(module, datamodule=data, ckpt_path=session.checkpoint, verbose=False)
    return trainer


def predict(
    session: Session, module: SoftPromptModule, data: ReasoningDataModule, questions: Sequence[str]
) -> list[Record]:
    """Generate an answer to each question; return the records in order, on every rank."""
    data.use_questions(questions)
    results = Results(None)
    trainer = session.trainer(module, [results], writes_config=False, writes_results=False, logger=False)
    trainer.predict(module, datamodule=data, ckpt_path=session.checkpoint, return_predictions=False)
    # Sorted by question, since batches group questions of similar lengths.
    return results.records(data.example_ids("predict"), complete=False)


def saliency(
    session: Session,
    module: SoftPromptModule,
    data: ReasoningDataModule,
    question: str,
    layers: list[int] | None = None,
) -> tuple[Saved | None, list[Record]]:
    """Generate an answer to one question, and compute the information flow to it.

    Args:
        layers: layers to observe; None: all.

    Returns:
        The saliency as written to the session's output folder, and a list with the record; None and an empty
        list on ranks without the question.

    Raises:
        UserError: if nothing was generated.
    """
    data.use_questions([question])
    folder = session.folders.out
    diagnostics = SaliencyDiagnostics(layers=layers, folder=folder)
    trainer = session.trainer(module, [diagnostics], logger=False)
    batches: Any = trainer.predict(
        module, datamodule=data, ckpt_path=session.checkpoint, return_predictions=True
    )
    records = [record for batch in batches or [] for record in batch["records"]]
    if not records:
        return None, []
    if not (folder / "saliency.jsonl").exists():
        raise UserError("nothing was generated: saliency needs a rationale of at least one token")
    return load(folder), records


def label_words(
    session: Session, module: SoftPromptModule, data: ReasoningDataModule, question: str
) -> tuple[LabelWords, list[Record]]:
    """Predict the label of one question, and measure flows and attention of its label words.

    Returns:
        The callback with its measures, as written to the session's output folder, and a list with the
        record, which is empty on ranks without the question.
    """
    data.use_questions([question])
    callback = LabelWords(["flows", "extraction"], folder=session.folders.out)
    trainer = session.trainer(module, [callback], logger=False)
    batches: Any = trainer.predict(
        module, datamodule=data, ckpt_path=session.checkpoint, return_predictions=True
    )
    return callback, [record for batch in batches or [] for record in batch["records"]]


def words(
    session: Session, module: SoftPromptModule, nearest: int, vocabulary: int | None
) -> list[LayerWords]:
    """Find the words nearest to the virtual tokens of the session's checkpoint, and write ``words.json``.

    Args:
        nearest, vocabulary: see :func:`nearest_words`.

    Raises:
        UserError: if the method has no virtual tokens at the input of a layer.
    """
    assert session.checkpoint is not None
    module.create_prompts()
    if torch.cuda.is_available():
        module.to("cuda")
    with loaded_state(module, read_checkpoint(session.checkpoint)):
        layers = nearest_words(module, nearest, vocabulary)
    write_words(session.folders.out / WORDS_FILE, layers, session.checkpoint)
    return layers


def _with_calibrating_dpc(callbacks: Sequence[Any]) -> list[Any]:
    """Return the callbacks with one DPC that corrupts every prompt and finds a threshold.

    Raises:
        UserError: if there are several, or one with a mode or threshold.
    """
    given = [callback for callback in callbacks if isinstance(callback, DPC)]
    if len(given) > 1:
        raise UserError("calibrate takes one DPC callback")
    dpc = given[0] if given else DPC()
    if dpc.mode != "dpc" or dpc.threshold is not None:
        raise UserError("calibrate finds the threshold of mode dpc: give neither mode nor threshold")
    dpc.mode, dpc.calibrating = "all", True
    return [*(callback for callback in callbacks if callback is not dpc), dpc]

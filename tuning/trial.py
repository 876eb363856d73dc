"""Training of one trial, in a run folder of its own, on the backbone that all trials share."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from promptstage.callbacks.partition.callback import CKAPartition
from promptstage.callbacks.run.final_validation import FinalValidation
from promptstage.callbacks.run.loggers import StepAxis
from promptstage.composition.configuration import hyperparameters
from promptstage.composition.folders import Folders
from promptstage.composition.quiet import LOGGERS
from promptstage.composition.session import Session, checkpoint_callbacks
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoints import read_checkpoint
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.functional.partition import Partition
from promptstage.tuning.configuration import trial_configuration
from promptstage.tuning.halving import rungs
from promptstage.tuning.search import Report
from promptstage.tuning.space import changed_arguments
from promptstage.tuning.study import Trial
from promptstage.utilities.files import make_folder
from promptstage.utilities.yaml_values import dump_yaml

# Options of the trainer that a trial sets itself, or that are for the fit with the best values.
OWN_OPTIONS = (
    "callbacks",
    "logger",
    "max_epochs",
    "min_epochs",
    "min_steps",
    "max_time",
    "enable_checkpointing",
)


def trial_folder(folder: Path, number: int) -> Path:
    """Return the folder of a trial, which is that of a run."""
    return folder / "trials" / f"{number:02d}"


class ValidationReport(L.Callback):
    """Reports each validation loss with its optimizer step."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.report(trainer.global_step, float(trainer.callback_metrics["val/loss"]))


class TrialTrainer:
    """Trains the trials of a search one after the other.

    Args:
        session: session of the search.
        prompt: prompt with the configuration that trials change.
        data: its data set.
        steps: optimizer steps of a trial that is never stopped.
    """

    def __init__(
        self, session: Session, prompt: SoftPromptModule, data: ReasoningDataModule, steps: int
    ) -> None:
        self.session, self.prompt, self.data, self.steps = session, prompt, data, steps
        self.backbone: Backbone = prompt.load_backbone()
        self.seed = torch.initial_seed()
        self.stages: Partition | None = None

    def __call__(self, trial: Trial, step: int, report: Report) -> None:
        """Train a trial up to a step, from its last checkpoint if it has one.

        Args:
            report: called with the step and the loss of each validation.

        Raises:
            RunFailure: if a number is not finite.
        """
        folder = trial_folder(self.session.folders.run, trial.number)
        make_folder(folder)
        last = folder / "checkpoints" / "last.ckpt"
        prompt = self._prompt(trial)
        session = self._session(trial, folder, str(last) if last.is_file() else None)
        if session.checkpoint is not None:
            prompt.adopt(read_checkpoint(last))
        elif isinstance(prompt, DHAM) and self.stages is not None:
            prompt.set_stages(self.stages)
        L.seed_everything(self.seed, verbose=False)
        best, *_ = checkpoint_callbacks(folder / "checkpoints", self.steps)
        # At validations only, once the loss is reported: an interrupted trial repeats what was not. After
        # best.ckpt, whose loss it stores.
        last_validated = ModelCheckpoint(
            dirpath=str(folder / "checkpoints"),
            filename="last",
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        callbacks = [
            CKAPartition(folder),
            StepAxis(),
            FinalValidation(step),
            ValidationReport(report),
            session.hyperparameter_log(folder),
            best,
            last_validated,
        ]
        devices = self.session.options.get("devices")
        accumulated: int = self.session.options.get("accumulate_grad_batches") or 1
        with _silent():
            trainer = session.trainer(
                prompt,
                callbacks,
                logger=session.event_log(evaluates=False),
                checkpoints=folder / "checkpoints",
                devices=devices if isinstance(devices, list) else 1,
                max_steps=self.steps,
                max_epochs=-1,
                num_sanity_val_steps=0,
                check_val_every_n_epoch=None,
                val_check_interval=rungs(self.steps)[0] * accumulated,
            )
            self.session.made = trainer  # for signals
            trainer.fit(prompt, datamodule=self.data, ckpt_path=session.checkpoint)
        if isinstance(prompt, DHAM):
            self.stages = prompt.stages

    def _prompt(self, trial: Trial) -> SoftPromptModule:
        arguments = changed_arguments(self.prompt, trial.values) | {"val_generations": 0}
        return type(self.prompt)(self.backbone, **arguments)

    def _session(self, trial: Trial, folder: Path, checkpoint: str | None) -> Session:
        config = trial_configuration(self.session.config, self.prompt, trial.values)
        sections = {section: config.get(section) for section in ("backbone", "model", "data")}
        options = {name: value for name, value in self.session.options.items() if name not in OWN_OPTIONS} | {
            "enable_progress_bar": False
        }
        return Session(
            folders=Folders(folder, folder, created=False, events=frozenset()),
            options=options,
            config=dump_yaml(config),
            hyperparameters=hyperparameters(sections, config),
            checkpoint=checkpoint,
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Hide the messages of single fits, which a search replaces by its own."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

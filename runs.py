"""Runs in Python: fit a prompt, open a run, evaluate it, load prompts.

    import promptstage as ps

    prompt = ps.DHAM(ps.Backbone("embedded"), num_virtual_tokens=64)
    run = ps.fit(prompt, ps.Generated(task="addition"), max_steps=100, lr=1e-2, folder="runs/first")
    print(run.test().accuracy)

Runs from Python and from the command line are interchangeable: either can resume or test the other's.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

from promptstage.composition import jobs
from promptstage.composition.configuration import config_of, data_from, hyperparameters, read_config
from promptstage.composition.exports.formats import export
from promptstage.composition.folders import Folders, interrupted_test, resumed_folders, run_folders
from promptstage.composition.quiet import quiet
from promptstage.composition.results import Evaluation, read_evaluation
from promptstage.composition.session import Session
from promptstage.composition.trainer_options import check_option_names, check_trainer_options
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.backbone.attention_hooks import check_hooked
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoints import read_checkpoint
from promptstage.lightning_modules.decoding.decoder import Decoder
from promptstage.lightning_modules.decoding.records import Record
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.functional.partition import Partition
from promptstage.lightning_modules.saved_prompts import checkpoint_in, load_prompt
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError
from promptstage.utilities.yaml_values import dump_yaml

PathLike = str | os.PathLike[str]


class Run:
    """Run folder with configuration, checkpoints and results.

    Attention hooks take effect in :meth:`test` and the other methods if they are installed on the backbone of
    :attr:`prompt`; hooks on another backbone are refused.
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        prompt: SoftPromptModule | None = None,
        data: ReasoningDataModule | None = None,
    ) -> None:
        """
        Args:
            folder: folder of the run.
            prompt: trained prompt; None: load it from the best checkpoint when needed.
            data: data set; None: create it from the configuration when needed.

        Raises:
            UserError: if the folder does not exist.
        """
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise UserError(f"run folder {folder} does not exist")
        if prompt is not None:
            self.prompt = prompt
        if data is not None:
            self.data = data

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def config(self) -> dict[str, Any]:
        """Configuration of the fit as nested plain values."""
        return read_config(self.folder / "config.yaml")

    @property
    def checkpoint(self) -> Path:
        """Path of the best checkpoint, or else of the last one; a UserError if there is none."""
        return checkpoint_in(self.folder)

    @cached_property
    def prompt(self) -> SoftPromptModule:
        """Trained prompt, loaded from :attr:`checkpoint`."""
        prompt = load_prompt(self.checkpoint)
        assert isinstance(prompt, SoftPromptModule)
        return prompt

    @cached_property
    def data(self) -> ReasoningDataModule:
        """Data set of the fit; one that promptstage does not define must be given to ``Run``."""
        return data_from(self.config, f"the configuration in {self.folder}")

    @property
    def records(self) -> list[dict[str, Any]]:
        """Records of the newest complete test, a dictionary for each question."""
        return read_evaluation(self.folder).records

    @property
    def summary(self) -> dict[str, Any]:
        """Summary of the newest complete test: accuracy, interval, counts, tokens, seconds."""
        return read_evaluation(self.folder).summary

    @property
    def figures(self) -> list[Path]:
        """Paths of all figures in the run."""
        return sorted(self.folder.rglob("*.png"))

    def test(self, decoder: Decoder | None = None, resume: bool = False, **options: Any) -> Evaluation:
        """Generate and grade an answer to each question of the test split, in a new folder of the run.

        Args:
            decoder: makes the answers, such as ``ps.Sampling(num_samples=8)``; None: greedy decoding.
            resume: continue the newest interrupted test of the run, with the same decoder and options.
            options: options of Lightning's trainer: ``callbacks=[ps.DPC(threshold=0.4)]``, ``devices=2``, ….
        """
        with self._session("test", options, decoder, resume) as session:
            jobs.test(session, self.prompt, self.data, verbose=False)
        return read_evaluation(session.shared(session.folders.out))

    def validate(self, decoder: Decoder | None = None, **options: Any) -> Evaluation:
        """Evaluate on the validation split, as :meth:`test` does on the test split."""
        with self._session("validate", options, decoder) as session:
            jobs.validate(session, self.prompt, self.data, verbose=False)
        return read_evaluation(session.shared(session.folders.out))

    def calibrate(
        self, examples: int | None = None, decoder: Decoder | None = None, **options: Any
    ) -> Evaluation:
        """Select the threshold of Dynamic Prompt Corruption (DPC), and save it beside the checkpoint.

        Args:
            examples: number of validation questions; None: all.
            decoder: see :meth:`test`.

        Returns:
            The evaluation with every prompt corrupted.
        """
        with self._session("calibrate", options, decoder) as session:
            jobs.calibrate(session, self.prompt, self.data, examples)
        return read_evaluation(session.shared(session.folders.out))

    def predict(
        self, questions: str | Sequence[str], decoder: Decoder | None = None, **options: Any
    ) -> list[Record]:
        """Generate an answer to one question or several, with the trainer's devices and callbacks.

        Raises:
            UserError: if there are no questions.
        """
        questions = [questions] if isinstance(questions, str) else list(questions)
        if not questions:
            raise UserError("questions must not be empty")
        with self._session(None, options, decoder) as session:
            return jobs.predict(session, self.prompt, self.data, questions)

    def export(self, to: str, target: PathLike, dry_run: PathLike | None = None) -> str:
        """Export the prompt for another program, with results for the Hub; see :func:`promptstage.export`."""
        return export(self.prompt, to, target, dry_run=dry_run, run=self.folder)

    @contextmanager
    def _session(
        self, results: str | None, options: dict[str, Any], decoder: Decoder | None, resume: bool = False
    ) -> Iterator[Session]:
        checkpoint = str(self.checkpoint)
        check_option_names(options, ("decoder", "resume"))
        check_trainer_options(options)
        if not isinstance(decoder, Decoder | None):
            raise UserError(f"decoder must be a decoder such as ps.Greedy(), got {decoder!r:.60}")
        _check_hooks(self.prompt, "run.prompt.backbone")
        if resume:
            folders = resumed_folders(interrupted_test(str(self.folder)))
        else:
            folders = run_folders(str(self.folder), checkpoint, "", results, writes=results is not None)
        session = _session(self.prompt, self.data, folders, options, checkpoint, self.config)
        with _used(session, self.prompt, decoder=decoder):
            yield session


def fit(
    prompt: SoftPromptModule,
    data: ReasoningDataModule,
    *,
    folder: PathLike | None = None,
    lr: float | None = None,
    seed: int = 0,
    save_every: int = 100,
    patience: int = 5,
    checkpoint: PathLike | None = None,
    **options: Any,
) -> Run:
    """Train a prompt and load its best weights; for DHAM, group the layers into stages first.

    Args:
        folder: folder of the run, numbered if it already contains one; None: ``runs/METHOD-DATASET``.
        lr: learning rate; None: that of the prompt's optimizer.
        seed: random seed of the fit; the data set has its own.
        save_every: write ``last.ckpt`` every N optimizer steps.
        patience: stop after N validations without a lower loss.
        checkpoint: run folder or checkpoint to resume; the run continues in its folder.
        options: options of Lightning's trainer: ``max_steps``, ``max_epochs``, ``devices``, ``precision``,
            ``callbacks``, ``logger`` and so on.

    Raises:
        UserError: if a value is not allowed, or data cannot be read.
    """
    check_option_names(options, ("lr", "seed", "folder", "save_every", "patience", "checkpoint"))
    check_trainer_options(options)
    _check_hooks(prompt)
    if not isinstance(data, ReasoningDataModule):
        raise UserError(f"data must be a data set such as ps.GSM8K(), got {data!r:.60}")
    check_minimum({"save_every": save_every}, 1)
    check_minimum({"patience": patience}, 0)
    if options.get("fast_dev_run"):
        raise UserError("fast_dev_run leaves no run: use lightning.Trainer(fast_dev_run=True).fit(...)")
    L.seed_everything(seed, verbose=False)
    if lr is not None:
        prompt.set_optimizer(replace(prompt.optimizer_config, lr=lr))
    data.set_chat_date(date.today())
    path = None if checkpoint is None else str(checkpoint_in(checkpoint, newest=True))
    if path is not None:
        prompt.adopt(read_checkpoint(path))
    stopping: dict[str, Any] = {
        "monitor": "val/loss",
        "patience": patience,
        "check_on_train_epoch_end": False,
    }
    fixed: dict[str, Any] = {"seed_everything": seed, "save_every": save_every, "early_stopping": stopping}
    name = f"{type(prompt).__name__}-{data.name}".lower()
    folders = run_folders(None if folder is None else str(folder), path, name)
    session = _session(prompt, data, folders, options, path, **fixed)
    with _used(session, prompt, trains=True):
        jobs.fit(session, prompt, data, save_every, EarlyStopping(**stopping))
    run = Run(session.shared(session.folders.run), prompt=prompt, data=data)
    best = run.folder / "checkpoints" / "best.ckpt"
    if best.is_file():
        prompt.load_state_dict(read_checkpoint(best)["state_dict"])
    return run


def partition(
    prompt: SoftPromptModule,
    data: ReasoningDataModule,
    *,
    folder: PathLike | None = None,
    seed: int = 0,
    **options: Any,
) -> Partition:
    """Group the backbone's layers into the stages of a DHAM prompt, without training.

    Args:
        folder: folder for ``partition.json`` and figures; None: ``runs/partition-DATASET``.
        seed: random seed.
        options: options of Lightning's trainer.

    Raises:
        UserError: if the method has no stages.
    """
    check_option_names(options, ("folder", "seed"))
    check_trainer_options(options)
    _check_hooks(prompt)
    L.seed_everything(seed, verbose=False)
    name = f"partition-{data.name}".lower()
    folders = run_folders(None if folder is None else str(folder), None, name)
    session = _session(prompt, data, folders, options, seed_everything=seed)
    with _used(session, prompt):
        jobs.partition(session, prompt, data)
    assert isinstance(prompt, DHAM)  # as partition checks
    assert prompt.stages is not None
    return prompt.stages


def load(path: PathLike, backbone: Any = None) -> SoftPromptModule:
    """Load a prompt from a run folder, a checkpoint, a folder written by ``save``, or a folder of PEFT.

    Args:
        path: run folder, checkpoint or saved folder; or PEFT's folder of a prompt, prefix, cartridge or LoRA.
        backbone: a loaded ``Backbone`` to share, or a name; None: the one that the prompt was trained on.

    Raises:
        UserError: if the files are missing or damaged, or the prompt belongs to another backbone.
    """
    prompt = load_prompt(path, backbone)
    assert isinstance(prompt, SoftPromptModule)
    return prompt


def _check_hooks(prompt: SoftPromptModule, where: str = "prompt.backbone") -> None:
    check_hooked(getattr(prompt, "backbone", None), where)


@contextmanager
def _used(
    session: Session, prompt: SoftPromptModule, trains: bool = False, decoder: Decoder | None = None
) -> Iterator[None]:
    """Run a session quietly, and release its folder; after an error, remove the folder if it has no results.

    Settings of the prompt that callbacks and jobs change are restored.
    """
    before = (prompt.val_generations, prompt.validation_tags, prompt.chosen_decoder)
    prompt.chosen_decoder = decoder
    try:
        with quiet():
            yield
    except BaseException:
        session.discard_unused(trains)
        raise
    finally:
        prompt.val_generations, prompt.validation_tags, prompt.chosen_decoder = before
        session.folders.release()


def _session(
    prompt: SoftPromptModule,
    data: ReasoningDataModule,
    folders: Folders,
    options: dict[str, Any],
    checkpoint: str | None = None,
    fitted: dict[str, Any] | None = None,
    **fixed: Any,
) -> Session:
    """Compose a session.

    Args:
        fitted: configuration of the fit that trained the prompt; None: this is it.
        fixed: further top-level values of the configuration.
    """
    config = config_of(prompt, data, options, **fixed)
    sections = {section: config[section] for section in ("backbone", "model", "data")}
    return Session(
        folders=folders,
        options=options,
        config=dump_yaml(config),
        hyperparameters=hyperparameters(sections, config if fitted is None else fitted),
        checkpoint=checkpoint,
    )

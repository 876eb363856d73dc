"""LightningCLI for promptstage; ``cli.py`` is the entry point and imports this only when needed."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.progress import ExamplesProgressBar
from callbacks.results import Results, write_answers
from callbacks.run_folder import RunFolder
from callbacks.throughput import Throughput
from command_line.folders import flatten, resolve_checkpoint, run_folders
from command_line.messages import explain
from datamodules import AQuA, Generated, GSM8K, MATH
from datamodules.base import ReasoningDataModule
from lightning_modules.backbone.loading import BackboneConfig
from lightning_modules.base import SoftPromptModule
from lightning_modules import DHAM, LoRA, PrefixTuning, Pretrained, PromptTuning
from lightning_modules.checkpointing import PromptCheckpointIO, read_checkpoint
from utilities.errors import UserError


METHODS = {cls.__name__: cls for cls in (DHAM, LoRA, PrefixTuning, Pretrained, PromptTuning)}
DATA_SETS = {cls.__name__: cls for cls in (AQuA, Generated, GSM8K, MATH)}
# What a checkpoint says about the model it holds; the rest of its config is used to resume a fit.
MODEL_SECTIONS = ("backbone", "model", "data")


class PromptParser(LightningArgumentParser):
    """An argument parser whose errors are one line with the nearest name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        options = [name for action in self._actions for name in action.option_strings]
        line = explain(message, sys.argv[1:], {"model": METHODS, "data": DATA_SETS}, options)
        self.exit(2, f"error: {line}\n")


class PromptCLI(LightningCLI):
    """Methods and data sets by name, one backbone for both, one folder a run."""

    def __init__(self, args: list[str], stored: dict[str, Any]) -> None:
        """
        Args:
            args: the command line, subcommand first.
            stored: configuration found in the checkpoint; empty without one.
        """
        self.wanted = args[0]
        self.stored = stored
        super().__init__(
            SoftPromptModule,
            ReasoningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=PromptParser,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={"use_distributed_sampler": False, "log_every_n_steps": 10},
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the one asked for: each costs a second of parsing signatures."""
        return {self.wanted: super().subcommands()[self.wanted]}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(BackboneConfig, "backbone")
        parser.link_arguments("backbone", "model.init_args.backbone")
        parser.link_arguments("backbone", "data.init_args.backbone")
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="folder of the run; default: runs/METHOD-DATASET, or the checkpoint's own run",
        )
        if self.wanted == "fit":
            parser.add_argument(
                "--save_every",
                type=int,
                default=100,
                help="write checkpoints/last.ckpt every so many optimiser steps",
            )
            parser.add_lightning_class_args(EarlyStopping, "early_stopping")
            parser.set_defaults({"early_stopping.monitor": "val/loss", "early_stopping.patience": 5})
        if self.wanted == "predict":
            parser.add_argument(
                "--questions", type=str, default="-", help="file, one question a line; -: standard input"
            )
            parser.add_argument(
                "--answers",
                type=str,
                default="-",
                help="file for the answers as JSON lines; -: standard output",
            )

    def _parse_ckpt_path(self) -> None:
        """Nothing: the checkpoint's values were put before the command line, so that flags win."""

    # --- instantiation ----------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        config = self.config[self.wanted]
        self._report_differences()
        method = config.model.class_path.rsplit(".", 1)[-1]
        data = config.data.class_path.rsplit(".", 1)[-1]
        task = config.data.init_args.get("task")
        name = f"{method}-{task or data}".lower()
        self.run_dir, self.out_dir = run_folders(self.wanted, config.run_dir, config.get("ckpt_path"), name)

    def _report_differences(self) -> None:
        """Say where the command line overrules the checkpoint."""
        if not self.stored:
            return
        used = yaml.safe_load(
            self._parser(self.subcommand).dump(self.config[self.wanted], skip_link_targets=False)
        )
        for section in MODEL_SECTIONS:
            theirs, ours = flatten(self.stored.get(section)), flatten(used.get(section))
            for key in sorted(theirs.keys() & ours.keys()):
                if theirs[key] != ours[key]:
                    option = f"--{section}.{key}".replace(".init_args", "")
                    print(
                        f"note: {option} is {ours[key]!r} (the checkpoint was made with {theirs[key]!r})",
                        file=sys.stderr,
                    )

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        config = self.config_init[self.wanted]
        text = self._parser(self.subcommand).dump(self.config[self.wanted], skip_none=False)
        callbacks: list[Any] = (
            [ExamplesProgressBar()] if config.trainer.enable_progress_bar is not False else []
        )
        if self.wanted != "predict":
            results_folder = None if self.wanted == "fit" else self.out_dir
            callbacks += [RunFolder(self.out_dir, text), Results(results_folder, self._hyperparameters())]
        if self.wanted == "fit":
            callbacks.append(Throughput())
            if config.trainer.enable_checkpointing is not False:
                callbacks += self._checkpoints(config.save_every)
        given = config.trainer.callbacks or []
        callbacks += given if isinstance(given, list) else [given]
        settings: dict[str, Any] = {
            "callbacks": callbacks,
            "default_root_dir": str(self.run_dir),
            "plugins": [*(config.trainer.plugins or []), PromptCheckpointIO()],
        }
        if self.wanted != "fit":
            settings["enable_checkpointing"] = False
        if self.wanted == "predict":
            settings["logger"] = False
        elif config.trainer.logger in (None, True):
            settings["logger"] = TensorBoardLogger(
                str(self.run_dir), name="", version="tensorboard", default_hp_metric=False
            )
        return super().instantiate_trainer(**settings, **kwargs)

    def _checkpoints(self, save_every: int) -> list[ModelCheckpoint]:
        folder = str(self.run_dir / "checkpoints")
        common: dict[str, Any] = {
            "dirpath": folder,
            "auto_insert_metric_name": False,
            "enable_version_counter": False,
        }
        return [
            ModelCheckpoint(filename="best", monitor="val/loss", save_top_k=1, **common),
            ModelCheckpoint(
                filename="last", every_n_train_steps=save_every, save_on_train_epoch_end=False, **common
            ),
            ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **common),
        ]

    def _hyperparameters(self) -> dict[str, Any]:
        used = yaml.safe_load(
            self._parser(self.subcommand).dump(self.config[self.wanted], skip_link_targets=True)
        )
        flat = {
            key: value
            for section in MODEL_SECTIONS
            for key, value in flatten({section: used.get(section)}).items()
        }
        return {
            key: value if isinstance(value, int | float | str | bool) else str(value)
            for key, value in flat.items()
        }

    # --- predict ----------------------------------------------------------------------------------

    def before_predict(self) -> None:
        config = self.config[self.wanted]
        assert self.datamodule is not None
        self.datamodule.use_questions(_read_questions(config.questions))

    def predict(self, model: LightningModule, **kwargs: Any) -> None:
        """Answer the questions and write one JSON object a line."""
        batches = self.trainer.predict(model, **kwargs | {"return_predictions": True}) or []
        records = [record for batch in batches for record in batch]
        write_answers(records, self.config[self.wanted].answers)


def _read_questions(source: str) -> list[str]:
    if source == "-":
        text = sys.stdin.read()
    else:
        path = Path(source)
        if not path.is_file():
            raise UserError(f"questions file {source} does not exist (- reads standard input)")
        text = path.read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]


def run(args: list[str]) -> None:
    """Run one subcommand.

    Raises:
        UserError: for a mistake of the user.
    """
    args, checkpoint = resolve_checkpoint(args)
    stored: dict[str, Any] = {}
    if checkpoint is not None:
        stored = yaml.safe_load(read_checkpoint(checkpoint).get("config", "{}"))
        args = [args[0], "--config", _as_option(stored, args[0]), *args[1:]]
    PromptCLI(args, stored)


def _as_option(stored: dict[str, Any], subcommand: str) -> str:
    """The stored configuration as text for ``--config``, before everything the user gives."""
    kept = stored if subcommand == "fit" else {key: stored[key] for key in MODEL_SECTIONS if key in stored}
    kept = {
        key: value
        for key, value in kept.items()
        if key not in ("run_dir", "ckpt_path", "questions", "answers")
    }
    return yaml.safe_dump(kept)

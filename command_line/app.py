"""LightningCLI for promptstage; ``cli.py`` is the entry point and imports this only when needed."""

import sys
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from promptstage import datamodules, lightning_modules
from promptstage.callbacks.act_file import FILE as ACT_FILE
from promptstage.callbacks.results import Results
from promptstage.callbacks.saliency_files import load
from promptstage.command_line.answers import check_answers, write_answers
from promptstage.command_line.flow_table import print_flow
from promptstage.command_line.folders import Folders, flatten, run_folders
from promptstage.command_line.messages import ParserMessage
from promptstage.command_line.nulls import check_nulls
from promptstage.command_line.options import (
    MODEL_SECTIONS,
    TRAINED_WITH,
    TRAINING,
    add_options,
    kept_settings,
)
from promptstage.command_line.processes import check_machines, note
from promptstage.command_line.questions import read_questions
from promptstage.command_line.quiet import hide_loading_bar
from promptstage.command_line.resume import check_resume
from promptstage.command_line.settings import check_settings, normalize_settings
from promptstage.command_line.trainer import PromptTrainer, trainer_settings
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.templates import CHAT
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.dham import DHAM
from promptstage.utilities.errors import UserError, shown

METHODS = {name: getattr(lightning_modules, name) for name in lightning_modules.__all__}
DATA_SETS = {name: getattr(datamodules, name) for name in datamodules.__all__}


class PromptParser(LightningArgumentParser):
    """An argument parser whose errors are one line with the nearest name.

    Nor does it, or one it makes for a class's options, take abbreviations: one is a typo not reported.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        """Take no value for the name of a file with more options: files are read and checked before."""
        return super().add_class_arguments(*args, **kwargs | {"sub_configs": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParserMessage(message) from ex


class PromptCLI(LightningCLI):
    """Methods and data sets by name, one backbone for both, one folder a run."""

    def __init__(self, args: list[str], checkpoint: dict[str, Any], stored: dict[str, Any]) -> None:
        """
        Args:
            args: the command line, subcommand first.
            checkpoint: contents of the checkpoint given; empty without one.
            stored: the configuration in it.
        """
        self.wanted = args[0]
        self.checkpoint, self.stored = checkpoint, stored
        self.folders: Folders | None = None
        super().__init__(
            SoftPromptModule,
            ReasoningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=PromptParser,
            trainer_class=PromptTrainer,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={
                "use_distributed_sampler": False,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
            },
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there
        """Only the one asked for: each costs a second of parsing signatures."""
        own = {"model", "datamodule"}
        every = super().subcommands() | dict.fromkeys(("partition", "saliency", "calibrate"), own)
        return {self.wanted: every[self.wanted]}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "test":
            parser.set_defaults({"verbose": False})  # the results have a line of their own
        if subcommand == "partition":
            parser.set_defaults({"model": {"class_path": "promptstage.DHAM"}})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)  # type: ignore[arg-type]  # always a list here
        check_nulls(self.config[self.wanted])
        normalize_settings(self.config[self.wanted])
        check_settings(self.config[self.wanted], self.wanted)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(BackboneConfig, "backbone")
        parser.link_arguments("backbone", "model.init_args.backbone")
        parser.link_arguments("backbone", "data.init_args.backbone")
        add_options(parser, self.wanted)

    def options(self) -> list[str]:
        """Every option of the subcommand, those of methods and data sets excepted."""
        return [name for action in self._parser(self.wanted)._actions for name in action.option_strings]

    def _parse_ckpt_path(self) -> None:
        """Nothing: the checkpoint's values were put before the command line, so that flags win."""

    # --- instantiation ----------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        config = self.config[self.wanted]
        if config.get("ckpt_path") and not self.stored:
            raise UserError("ckpt_path is read from the command line only: give --ckpt_path")
        self._report_differences()
        data = config.data.init_args
        if data.get("template") == CHAT and data.get("date") is None:
            data.date = date.today().isoformat()  # so that a later test of the run renders the same prompts
        method = config.model.class_path.rsplit(".", 1)[-1]
        if self.wanted not in TRAINING and not self.stored and method != "Pretrained":
            self._note(f"without --ckpt_path, {method} starts untrained")

    @rank_zero_only
    def _note(self, text: str) -> None:
        note(text)

    def _choose_folders(self) -> Folders:
        config = self.config[self.wanted]
        method = config.model.class_path.rsplit(".", 1)[-1]
        data = config.data.class_path.rsplit(".", 1)[-1]
        task = config.data.init_args.get("task")
        name = f"{'partition' if self.wanted == 'partition' else method}-{task or data}".lower()
        return run_folders(self.wanted, config.run_dir, config.get("ckpt_path"), name)

    def discard_unused_folder(self) -> None:
        """After a failure: remove a new folder that holds nothing worth keeping."""
        if self.folders is None:
            return
        trainer = getattr(self, "trainer", None)
        kept = trainer is not None and trainer.global_step > 0 if self.wanted == "fit" else False
        found = [*self.folders.out.glob("*.jsonl"), *self.folders.out.glob(ACT_FILE)]
        if not kept and not found:
            self.folders.discard()

    def _report_differences(self) -> None:
        """Say where the command line overrules the checkpoint."""
        if not self.stored:
            return
        used = yaml.safe_load(
            self._parser(self.subcommand).dump(self.config[self.wanted], skip_link_targets=False)
        )
        theirs, ours = flatten(kept_settings(self.stored, self.wanted)), flatten(used)
        if self.wanted == "fit":
            check_resume(theirs, ours)
        for key in sorted(theirs.keys() & ours.keys()):
            if theirs[key] != ours[key]:
                option = f"--{key}".replace(".init_args", "")
                self._note(
                    f"{option} is {shown(ours[key])} (the checkpoint was made with {shown(theirs[key])})"
                )

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        hide_loading_bar()
        if self.wanted == "partition" and not isinstance(self.model, DHAM):
            raise UserError(f"partition finds the stages of DHAM; {type(self.model).__name__} has none")
        if self.checkpoint:
            self.model.adopt(self.checkpoint)
        self.folders = self._choose_folders()
        text = self._parser(self.subcommand).dump(self.config[self.wanted], skip_none=False)
        settings = trainer_settings(
            self.wanted, self.config_init[self.wanted], self.folders, text, self._hyperparameters()
        )
        trainer = super().instantiate_trainer(**settings, **kwargs)
        check_machines(trainer)
        return trainer

    def _hyperparameters(self) -> dict[str, Any]:
        used = yaml.safe_load(
            self._parser(self.subcommand).dump(self.config[self.wanted], skip_link_targets=True)
        )
        flat = {
            key: value
            for section in MODEL_SECTIONS
            for key, value in flatten({section: used.get(section)}).items()
        }
        fitted = flatten(self.stored)
        flat |= {key: fitted[key] for key in TRAINED_WITH if key in fitted}
        return {
            key: value if isinstance(value, int | float | str | bool) else str(value)
            for key, value in flat.items()
        }

    def after_fit(self) -> None:
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            assert self.folders is not None
            self.folders.discard()
            rank_zero_info("fast_dev_run: training and validation ran; no files are kept")

    def after_partition(self) -> None:
        assert self.folders is not None
        drawn = " and its figures are" if any(self.folders.run.glob("*.png")) else " is"
        rank_zero_info(f"partition.json{drawn} in {self.folders.run}: --model.partition {self.folders.run}")

    # --- predict ----------------------------------------------------------------------------------

    def before_predict(self) -> None:
        config = self.config[self.wanted]
        assert self.datamodule is not None
        if config.answers != "-":
            check_answers(Path(config.answers).expanduser())  # before the work, not after it
        self.datamodule.use_questions(read_questions(config.questions, self.datamodule.question_field))

    def predict(self, model: LightningModule, **kwargs: Any) -> None:
        """Answer the questions and write one JSON object a line."""
        self.trainer.predict(model, **kwargs | {"return_predictions": False})
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        results = next(one for one in callbacks if isinstance(one, Results))
        assert self.datamodule is not None
        # In the order of the questions: batches are of like lengths.
        records = results.records(self.datamodule.example_ids("predict"), complete=False)
        if self.trainer.is_global_zero:
            write_answers(records, self.config[self.wanted].answers)

    # --- calibrate --------------------------------------------------------------------------------

    def before_calibrate(self) -> None:
        config = self.config[self.wanted]
        if not config.get("ckpt_path"):
            raise UserError("calibrate finds the threshold of a trained prompt: give --ckpt_path RUN")
        if config.examples is not None and config.examples < 1:
            raise UserError(f"calibrate takes 1 example or more, not {config.examples}")
        self.model.val_generations = config.examples or sys.maxsize

    # --- saliency ---------------------------------------------------------------------------------

    def before_saliency(self) -> None:
        question = self.config[self.wanted].question
        if not question.strip():
            raise UserError("no question to look at: give --question TEXT")
        assert self.datamodule is not None
        self.datamodule.use_questions([question])

    def saliency(self, model: LightningModule, **kwargs: Any) -> None:
        """Answer the question and show how information flowed to the answer."""
        assert isinstance(self.trainer, PromptTrainer)
        batches = self.trainer.saliency(model, **kwargs)
        records = [record for batch in batches for record in batch["records"]]
        if not records:
            return
        assert self.folders is not None
        if not (self.folders.out / "saliency.jsonl").exists():
            raise UserError("the model answered with nothing: there is no rationale to look at")
        write_answers(records, str(self.folders.out / "answers.jsonl"))
        print_flow(load(self.folders.out), records[0])
        print(f"figures and numbers are in {self.folders.out}")

"""LightningCLI for the subcommands that train or evaluate a prompt."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import yaml
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

import promptstage
from promptstage import datamodules, lightning_modules
from promptstage.command_line.commands.base import MODEL_SECTIONS, Invocation, TrainerCommand
from promptstage.command_line.nulls import check_nulls
from promptstage.command_line.parser import PromptParser
from promptstage.command_line.resume import check_resume
from promptstage.command_line.schema import FAMILIES
from promptstage.command_line.settings import check_settings, normalize_settings
from promptstage.composition.configuration import flatten, hyperparameters
from promptstage.composition.quiet import hide_loading_bar
from promptstage.composition.session import DEFAULTS, Session
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.prompt_format import CHAT
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.initialization import PEFT
from promptstage.utilities.errors import UserError, shown
from promptstage.utilities.processes import note

METHODS = {name: getattr(promptstage, name) for name in lightning_modules.__all__}
DATA_SETS = {name: getattr(promptstage, name) for name in datamodules.__all__}
DECODERS = {name: getattr(promptstage, name) for name in FAMILIES["decoder"]}


class PromptCLI(LightningCLI):
    """Parser of a subcommand's options, from which it makes module, data and session."""

    session: Session | None = None

    def __init__(
        self,
        name: str,
        command: TrainerCommand,
        args: list[str],
        checkpoint: dict[str, Any],
        stored: dict[str, Any],
        trainer_help: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        """
        Args:
            name: name of the subcommand.
            args: the command line, subcommand first.
            checkpoint: contents of the checkpoint; empty without one.
            stored: the configuration in the checkpoint.
            trainer_help: ``--help`` shows the options of Lightning's trainer instead of the others.
            arguments: the options as they were typed.
        """
        self.arguments = arguments
        self.name, self.command, self.trainer_help = name, command, trainer_help
        self.checkpoint, self.stored = checkpoint, stored
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
            trainer_defaults=DEFAULTS,
            args=args,
        )

    # --- parser -----------------------------------------------------------------------------------

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there
        """Return the requested subcommand only: parsing the signatures of one takes a second."""
        return {self.name: set()}

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        own = self.init_parser(description=self.command.description)
        self._add_arguments(own)
        own.set_defaults(dict(self.command.defaults))
        self._subcommand_parsers = {self.name: own}
        parser.add_subcommands().add_subcommand(self.name, own)
        assert isinstance(own, PromptParser)
        own.arrange_help(f"promptstage {self.name} [options]", self.trainer_help)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self.command.takes_checkpoint:
            which = "last" if self.command.resumes else "best"
            parser.add_argument(
                "--ckpt_path",
                type=str | None,
                default=None,
                help=f"checkpoint, or run folder to use the {which} checkpoint of",
            )
            parser.add_argument(
                "--weights_only",
                type=bool | None,
                default=None,
                help="no effect: code in a checkpoint is never executed",
            )
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="folder of the run; default: the checkpoint's run, or runs/METHOD-DATASET",
        )
        self.command.add_options(parser)
        parser.add_class_arguments(BackboneConfig, "backbone")
        parser.link_arguments("backbone", "model.init_args.backbone")

    def options(self) -> list[str]:
        """Return every option of the subcommand except those of methods and data sets."""
        return [name for action in self._parser(self.name)._actions for name in action.option_strings]

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)  # type: ignore[arg-type]  # always a list here
        check_nulls(self.config[self.name])
        normalize_settings(self.config[self.name])
        check_settings(self.config[self.name], self.command.evaluates)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: the checkpoint's values precede the command line, so that flags override them."""

    # --- instantiation ----------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        config = self.config[self.name]
        if config.get("ckpt_path") and not self.stored:
            raise UserError("ckpt_path is read from the command line only: give --ckpt_path")
        self._report_differences()
        data = config.data.init_args
        if data.get("template") == CHAT and data.get("date") is None:
            data.date = date.today().isoformat()  # so that a later test of the run renders the same prompts
        method, _ = self._class_names()
        trained = getattr(config.model.init_args.get("init"), "kind", None) == PEFT
        if not self.command.trains and not self.stored and method != "Pretrained" and not trained:
            self._note(f"without --ckpt_path, {method} starts untrained")

    @rank_zero_only
    def _note(self, text: str) -> None:
        note(text)

    def _class_names(self) -> tuple[str, str]:
        """Return the short names of the method, and of the data set or generated task."""
        config = self.config[self.name]
        data = config.data.init_args.get("task") or config.data.class_path.rsplit(".", 1)[-1]
        return config.model.class_path.rsplit(".", 1)[-1], data

    def _report_differences(self) -> None:
        """Note each option that overrides a value stored in the checkpoint."""
        if not self.stored:
            return
        used = flatten(yaml.safe_load(self._dumped(skip_link_targets=False)))
        stored = flatten(without_code_trust(self.command.stored_settings(self.stored)))
        if self.command.resumes:
            check_resume(stored, used)
        for key in sorted(stored.keys() & used.keys()):
            if stored[key] != used[key]:
                option = f"--{key}".replace(".init_args", "")
                self._note(
                    f"{option} is {shown(used[key])} (the checkpoint was made with {shown(stored[key])})"
                )

    def _dumped(self, **kwargs: Any) -> str:
        # The values were validated when they were parsed.
        return self._parser(self.name).dump(self.config[self.name], skip_validation=True, **kwargs)

    def instantiate_classes(self) -> None:
        config = self.config
        if not self.command.loads_backbone:
            config = config.clone()
            config[self.name].pop("model")
        self.config_init = self.parser.instantiate_classes(config)
        objects = self.config_init[self.name]
        self.model, self.datamodule = objects.get("model"), objects.data

    def after_instantiate_classes(self) -> None:
        hide_loading_bar()
        config, objects = self.config[self.name], self.config_init[self.name]
        if self.checkpoint and self.command.loads_backbone:
            self.model.adopt(self.checkpoint)
        used = yaml.safe_load(self._dumped(skip_link_targets=True))
        trained = used if self.command.resumes else self.stored  # a fit has its own options
        self.session = Session(
            options=objects.trainer.as_dict(),
            config=self._dumped(skip_none=False),
            hyperparameters=hyperparameters({name: used.get(name) for name in MODEL_SECTIONS}, trained),
            checkpoint=config.get("ckpt_path"),
            folders=self.command.folders(config, *self._class_names()),
            arguments=self.arguments,
        )

    def _run_subcommand(self, subcommand: str) -> None:
        assert self.session is not None
        config, objects = self.config[self.name], self.config_init[self.name]
        invocation = Invocation(config, objects, self.session, self.model, self.datamodule)
        self.command.prepare(invocation)
        self.command.run(invocation)


def without_code_trust(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a stored configuration without ``trust_remote_code``: a file must not decide to run code."""
    backbone = settings.get("backbone")
    if not isinstance(backbone, dict):
        return settings
    rest = {name: value for name, value in backbone.items() if name != "trust_remote_code"}
    return settings | {"backbone": rest}

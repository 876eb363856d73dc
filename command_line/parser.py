"""Argument parser of subcommands with a model: one-line errors, promptstage's options first in the help."""

from argparse import _ArgumentGroup
from typing import Any, NoReturn

from jsonargparse._actions import _ActionPrintConfig
from jsonargparse.typing import register_type
from lightning.pytorch.cli import LightningArgumentParser

from promptstage.command_line.commented import commented
from promptstage.command_line.messages import ParserMessage
from promptstage.utilities.errors import choose
from promptstage.utilities.plain_values import Plain

register_type(Plain, lambda value: value, lambda value: value, type_check=lambda value, _: True)

TRAINER = "trainer"
# Groups of the help in their order, by the first part of their options.
TITLES = {
    "": "options",
    "model": "method",
    "data": "data set",
    "decoder": "decoder",
    "backbone": "backbone",
    "early_stopping": "early stopping",
    TRAINER: "options of Lightning's trainer",
}
PRINT_FLAGS = ("comments", "skip_default", "skip_unset")
EPILOG = (
    "'--model.help DHAM' lists the options of a method, '--data.help GSM8K' those of a data set, and "
    "'--help-trainer' those of Lightning's trainer: --trainer.max_steps, --trainer.devices, "
    "--trainer.precision, --trainer.callbacks and more."
)
# Descriptions of options from libraries.
HELP = {
    "--config": "YAML file with options; may be repeated, later files override earlier ones",
    "--print_config": "print the values of all options as YAML and exit; =comments adds their descriptions",
    "--seed_everything": "random seed; true: draw one",
    "--model": "method, by its name or class path",
    "--model.help": "show the options of a method and exit",
    "--data": "data set, by its name or class path",
    "--decoder": "decoder, by its name or class path; default: Greedy",
    "--decoder.help": "show the options of a decoder and exit",
    "--data.help": "show the options of a data set and exit",
    "--trainer": "YAML file with options of the trainer",
    "--backbone": "YAML file with options of the backbone",
    "--early_stopping": "YAML file with options of early stopping",
    "--early_stopping.monitor": "metric to monitor",
    "--early_stopping.min_delta": "smallest change that counts as an improvement",
    "--early_stopping.patience": "number of validations without improvement after which training stops",
    "--early_stopping.verbose": "log each improvement",
    "--early_stopping.mode": "min: lower values are better; max: higher values are better",
    "--early_stopping.strict": "fail if the metric is not logged",
    "--early_stopping.check_finite": "stop if the metric is NaN or infinite",
    "--early_stopping.stopping_threshold": "stop as soon as the metric is better than this value",
    "--early_stopping.divergence_threshold": "stop as soon as the metric is worse than this value",
    "--early_stopping.check_on_train_epoch_end": "check after training epochs instead of validations",
    "--early_stopping.log_rank_zero_only": "log on rank 0 only",
}


class PrintConfig(_ActionPrintConfig):
    """``--print_config`` with the flag ``comments``, for which jsonargparse itself needs ruamel.yaml."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        flags = value[0].split(",")
        for flag in filter(None, flags):
            choose("--print_config", flag, PRINT_FLAGS)
        others = [flag for flag in flags if flag != "comments"]
        super().__call__(parser, namespace, [",".join(others)], option_string)
        while hasattr(parser, "parent_parser"):
            parser = parser.parent_parser
        parser.print_config["with_comments"] = "comments" in flags


class PromptParser(LightningArgumentParser):
    """Argument parser that reports errors in one line with the nearest name.

    It takes no abbreviations, which would hide typos; nor do the parsers that it creates for classes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Replace jsonargparse's action of ``--print_config``."""
        if kwargs.get("action") is _ActionPrintConfig:
            kwargs["action"] = PrintConfig
        return super().add_argument(*args, **kwargs)

    def dump(self, *args: Any, with_comments: bool = False, **kwargs: Any) -> str:
        """Serialize a configuration, with the help of each option as a comment if requested."""
        text = super().dump(*args, **kwargs)
        return commented(text, self) if with_comments else text

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        """Never interpret a value as the name of a file with options: files are read and checked before."""
        return super().add_class_arguments(*args, **kwargs | {"sub_configs": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParserMessage(message) from ex

    def arrange_help(self, usage: str, trainer: bool) -> None:
        """Order the groups of the help, show either the trainer's options or all others, and describe them.

        Args:
            usage: line that replaces the list of all options.
            trainer: show only the trainer's options.
        """
        self.usage, self.epilog = usage, None if trainer else EPILOG
        shown = []
        for section, title in TITLES.items():
            for group in self._action_groups:
                if _section(group) == section:
                    group.title = title
                    shown += [group] if (section == TRAINER) == trainer else []
        self._action_groups = shown
        for action in self._actions:
            name = next((name for name in action.option_strings if name in HELP), None)
            if name is not None:
                action.help = HELP[name]
            elif isinstance(action.help, str):
                action.help = action.help.replace("``", "").removesuffix(".")


def _section(group: _ArgumentGroup) -> str | None:
    """Return the first part of a group's option names, empty for options without parts; None without any."""
    names = [name for action in group._group_actions for name in action.option_strings]
    if not names:
        return None
    parts = [name.lstrip("-").partition(".") for name in names]
    return next((first for first, dot, _ in parts if dot), "")

"""Argument parser of subcommands with a model: one-line errors, promptstage's options first in the help."""

from argparse import _ArgumentGroup
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from promptstage.command_line.messages import ParserMessage

TRAINER = "trainer"
# Groups of the help in their order, by the first part of their options.
TITLES = {
    "": "options",
    "model": "method",
    "data": "data set",
    "backbone": "backbone",
    "early_stopping": "early stopping",
    TRAINER: "options of Lightning's trainer",
}
EPILOG = """\
method and data set: '--model.help DHAM' and '--data.help GSM8K' list the options of each.
trainer: --trainer.max_steps, --trainer.max_epochs, --trainer.devices, --trainer.precision,
--trainer.callbacks and more; '--help-trainer' lists them all.
"""


class PromptParser(LightningArgumentParser):
    """Argument parser that reports errors in one line with the nearest name.

    It takes no abbreviations, which would hide typos; nor do the parsers that it creates for classes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        """Never interpret a value as the name of a file with options: files are read and checked before."""
        return super().add_class_arguments(*args, **kwargs | {"sub_configs": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParserMessage(message) from ex

    def arrange_help(self, usage: str, trainer: bool) -> None:
        """Order the groups of the help, and show either the trainer's options or all others.

        Args:
            usage: line that replaces the list of all options.
            trainer: show only the trainer's options.
        """
        self.usage, self.epilog = usage, None if trainer else EPILOG
        shown = []
        for section, title in TITLES.items():
            for group in self._action_groups:
                if _section(group) == section and (section == TRAINER) == trainer:
                    group.title = title
                    shown.append(group)
        self._action_groups = shown


def _section(group: _ArgumentGroup) -> str | None:
    """Return the first part of a group's option names, empty for options without parts; None without any."""
    names = [name for action in group._group_actions for name in action.option_strings]
    if not names:
        return None
    parts = [name.lstrip("-").partition(".") for name in names]
    return next((first for first, dot, _ in parts if dot), "")

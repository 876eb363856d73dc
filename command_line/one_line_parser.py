"""Argument parser of subcommands without a model."""

import argparse
from typing import NoReturn

from promptstage.utilities.errors import UserError, nearest


class OneLineParser(argparse.ArgumentParser):
    """Argument parser without abbreviations that raises errors as :class:`UserError`."""

    def __init__(self, name: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"promptstage {name}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def parse(self, args: list[str]) -> argparse.Namespace:
        """Parse the arguments.

        Raises:
            UserError: for an unknown option, naming the nearest, or another mistake.
        """
        options, unknown = self.parse_known_args(args)
        for arg in sorted(unknown, key=lambda arg: not arg.startswith("-")):
            name = arg.partition("=")[0]
            if name.startswith("-"):
                known = [option for action in self._actions for option in action.option_strings]
                raise UserError(f"option {name} is unknown: {nearest(name, known)}")
            raise UserError(f"unexpected argument '{arg}'")
        return options

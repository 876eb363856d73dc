"""Allowlist of the classes and functions that may be imported."""

import os
from collections.abc import Mapping
from typing import Any

import yaml
from jsonargparse import _loaders_dumpers, set_dumper, set_loader, set_parsing_settings

import promptstage
from promptstage.command_line.file_values import is_class_name
from promptstage.datamodules.data_sections import function_kinds
from promptstage.utilities.errors import UserError
from promptstage.utilities.yaml_values import Loader, dump_yaml

PACKAGES = tuple(f"promptstage.{name}" for name in ("lightning_modules", "datamodules", "callbacks"))
LIGHTNING = tuple(f"lightning.pytorch.{name}" for name in ("callbacks", "loggers", "profilers", "plugins"))
# Besides those: packages of Lightning classes that the command line may give by their short names.
NAMED_BY_USERS = (
    "lightning.pytorch.strategies",
    "lightning.pytorch.accelerators",
    "lightning.fabric.plugins",
)


def is_known_class(name: str) -> bool:
    """Return whether a dotted name is in promptstage, or in a package of Lightning that files may name."""
    package, _, last = name.rpartition(".")
    if package == "promptstage":
        return last in promptstage.__all__
    return name.startswith(tuple(f"{package}." for package in (*PACKAGES, *LIGHTNING)))


class Importable:
    """Allowlist of class paths: promptstage's, Lightning's, and those on the command line.

    jsonargparse then imports no others, whatever a file contains, and instantiates nothing for options of
    type ``Any``.
    """

    def __init__(self, typed: Mapping[str, str]) -> None:
        """
        Args:
            typed: dotted names on the command line, with the option of each.
        """
        self.typed = dict(typed)
        modules = {name.rpartition(".")[0] for name in typed} - {""}
        allowed = [name for name in modules if name.split(".")[0] != "jsonargparse"]
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=["promptstage", *LIGHTNING, *NAMED_BY_USERS, *allowed],
            instantiate_subclass_spec_in_any=False,
        )
        # jsonargparse reads 1:30 as 90. For numbers it uses this loader, whatever set_loader has set.
        _loaders_dumpers.yaml_default_loader = Loader  # type: ignore[assignment]  # None until its first use
        set_dumper("yaml", dump_yaml)  # jsonargparse's own leaves the text 2e5 unquoted
        set_loader("yaml", _load_value, (yaml.YAMLError,))

    def check(self, name: str, where: str, option: str) -> None:
        """
        Raises:
            UserError: if the class is not one of these.
        """
        if not is_class_name(name):
            raise UserError(f"{where}: {option.removeprefix('--')} must be a class name, got {name!r:.60}")
        # The parser would also take the text for a file name, and read that file with fewer checks.
        known = is_known_class(name) if "." in name else not os.path.lexists(name)
        if not known and name not in self.typed:
            raise UserError(
                f"{where} names the class '{name}', which is not one of promptstage's: if it is yours, name "
                f"it on the command line, too: {option} {name}"
            )

    def check_kinds(self, data: Any, where: str) -> None:
        """
        Raises:
            UserError: if a data set's ``answer_kind`` is a function that the command line does not name.
        """
        for name in function_kinds(data):
            if name not in self.typed:
                raise UserError(
                    f"{where} names the function '{name}', which grades answers: if it is yours, name it on "
                    f"the command line, too: --data.answer_kind {name}"
                )


def _load_value(text: str) -> Any:
    """Load a value as jsonargparse does, except for a text such as ``####``, to YAML a comment."""
    value = _loaders_dumpers.yaml_load(text)
    return text if value is None and text.lstrip().startswith("#") else value

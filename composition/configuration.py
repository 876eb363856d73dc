"""Configuration of a run as YAML, in the same form from Python and the command line."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import promptstage
from promptstage import datamodules
from promptstage.composition.folders import flatten
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.utilities.arguments import plain_arguments, typed_arguments
from promptstage.utilities.class_names import current_name
from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.reading import read_text
from promptstage.utilities.yaml_values import LIMIT, dump_yaml, parse_yaml, plain


def config_text(
    prompt: SoftPromptModule, data: ReasoningDataModule, options: Mapping[str, Any], **fixed: Any
) -> str:
    """Write the configuration of a use of the trainer.

    Args:
        options: options of Lightning's trainer; objects, such as callbacks, are omitted.
        fixed: further top-level values.
    """
    simple = {
        name: value for name, value in options.items() if isinstance(value, bool | int | float | str | None)
    }
    return dump_yaml({**fixed, "trainer": simple, **_sections(prompt, data)})


def hyperparameters(prompt: SoftPromptModule, data: ReasoningDataModule) -> dict[str, Any]:
    """Return all options of backbone, method and data by their flat names."""
    flat = flatten(_sections(prompt, data))
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in flat.items()
    }


def _sections(prompt: SoftPromptModule, data: ReasoningDataModule) -> dict[str, Any]:
    return {
        "model": _class_section(prompt, prompt.constructor_arguments),
        "data": _class_section(data, data.constructor_arguments),
        "backbone": asdict(prompt.backbone_config),
    }


def _class_section(instance: object, arguments: Mapping[str, Any]) -> dict[str, Any]:
    cls = type(instance)
    known = getattr(promptstage, cls.__name__, None) if cls.__name__ in promptstage.__all__ else None
    path = f"promptstage.{cls.__name__}" if known is cls else f"{cls.__module__}.{cls.__qualname__}"
    return {"class_path": path, "init_args": plain_arguments(arguments) or {}}


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's configuration as plain values.

    Raises:
        UserError: if it is missing, too large, or not a mapping in YAML.
    """
    values = plain(
        parse_yaml(read_text(path, "configuration", LIMIT), f"configuration {path}"), lambda *_: False
    )
    if not isinstance(values, dict):
        raise UserError(f"configuration {path} has no sections")
    return values


def data_from(config: Mapping[str, Any], where: str) -> ReasoningDataModule:
    """Make the data set that a configuration names.

    Raises:
        UserError: if it is not one of promptstage's, or its options are not valid.
    """
    section = config.get("data")
    section = {"class_path": section} if isinstance(section, str) else section
    name = section.get("class_path") if isinstance(section, Mapping) else None
    package, _, short = current_name(str(name)).rpartition(".")
    if short not in datamodules.__all__ or package not in ("", "promptstage"):
        raise UserError(
            f"{where} names the data set {name!s:.60!r}, which is not one of promptstage's: give the data "
            f"set itself, as in Run(folder, data=...) ({nearest(short, datamodules.__all__)})"
        )
    cls = getattr(promptstage, short)
    arguments = (section or {}).get("init_args") or {}
    made: ReasoningDataModule = cls(**typed_arguments(cls, arguments, f"{where}: section 'data'"))
    return made

"""Configuration of a run as YAML, in the same form from Python and the command line."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import promptstage
from promptstage import datamodules
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.data_sections import (
    OPTIONS,
    complete,
    function_kinds,
    make_data_set,
    own_class,
)
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.utilities.arguments import plain_arguments
from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.reading import read_text
from promptstage.utilities.yaml_values import LIMIT, parse_yaml, plain

GIVE_DATA = "give the data set itself, as in Run(folder, data=...)"
# Options of the fit that loggers show besides those of the model.
TRAINED_WITH = (
    "seed_everything",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.accumulate_grad_batches",
    "trainer.precision",
    "trainer.gradient_clip_val",
)


def config_of(
    prompt: SoftPromptModule, data: ReasoningDataModule, options: Mapping[str, Any], **fixed: Any
) -> dict[str, Any]:
    """Return the configuration of a use of the trainer, in the sections of a configuration file.

    Args:
        options: options of Lightning's trainer; objects, such as callbacks, are omitted.
        fixed: further top-level values.
    """
    trainer = {name: value for name, value in options.items() if plain_arguments({name: value}) is not None}
    return {
        **fixed,
        "trainer": plain_arguments(trainer),
        "model": _class_section(prompt, prompt.constructor_arguments),
        "data": _class_section(data, data.constructor_arguments),
        "backbone": asdict(prompt.backbone_config),
    }


def hyperparameters(sections: Mapping[str, Any], fit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of backbone, method and data, and the main ones of the fit, by their flat names.

    Args:
        sections: sections ``backbone``, ``model`` and ``data`` of a configuration.
        fit: configuration of the fit that trained the prompt; empty if it is not trained.
    """
    flat = flatten(sections)
    trained = flatten(fit)
    flat |= {name: trained[name] for name in TRAINED_WITH if name in trained}
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in flat.items()
    }


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    if not isinstance(tree, Mapping):
        return {prefix: tree} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


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
    if (short := own_class(name)) is None:
        raise UserError(
            f"{where} names the data set {name!s:.60!r}, which is not one of promptstage's: {GIVE_DATA} "
            f"({nearest(str(name).rpartition('.')[2], datamodules.__all__)})"
        )
    for function in function_kinds(section):
        raise UserError(f"{where} names the function {function!r:.60}, which grades answers: {GIVE_DATA}")
    arguments = dict((section or {}).get("init_args") or {})
    for option in OPTIONS:
        if option in arguments:
            arguments[option] = complete(option, arguments[option], f"{where}: {option}", files=False)
    made = make_data_set({"class_path": short, "init_args": arguments}, f"{where}: section 'data'")
    assert isinstance(made, ReasoningDataModule)
    return made

"""Names and types of all options, from the signatures of methods, data sets and subcommands."""

import importlib
import inspect
from collections.abc import Collection, Mapping
from typing import Any

import promptstage
from promptstage import datamodules, lightning_modules
from promptstage.command_line.commands import loaded_commands
from promptstage.utilities.option_types import OptionPath, class_options, flat_types

# Options that name a class by its short name, with the names of promptstage's classes.
FAMILIES: dict[str, list[str]] = {
    "model": lightning_modules.__all__,
    "data": datamodules.__all__,
    "decoder": ["Greedy", "Sampling"],
}


def class_named(section: str, name: str) -> type | None:
    """Return the class of a family, such as ``model``, by its short or dotted name, or None."""
    if name in FAMILIES[section]:
        return getattr(promptstage, name)
    module, _, last = name.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), last) if module else None
    except Exception:  # a module of the user's may raise anything; the parser reports it
        return None
    return cls if inspect.isclass(cls) else None


def is_ours(section: str, name: str) -> bool:
    """Return whether a short or dotted name is that of a class of promptstage in a family."""
    package, _, last = name.rpartition(".")
    return last in FAMILIES[section] and package.partition(".")[0] in ("", "promptstage")


def option_types(classes: Mapping[str, str], typed: Collection[str]) -> dict[OptionPath, Any]:
    """Return the types of a configuration's options by path, ``("model", "init_args", "init", "text")``.

    Args:
        classes: class names by family, as far as they are known.
        typed: class paths that may be imported although they are not promptstage's.
    """
    from promptstage.lightning_modules.backbone.loading import BackboneConfig

    options = flat_types(("backbone",), BackboneConfig)
    texts = TEXT_OPTIONS.items(), *(command.text_options.items() for command in loaded_commands())
    options |= {(name,): kind for items in texts for name, kind in items}
    for section, name in classes.items():
        known = is_ours(section, name) or name in typed
        if known and (cls := class_named(section, name)):
            own = class_options(cls)
            options |= {(section, "init_args", *path): kind for path, kind in own.items()}
    return options


# Text options of all subcommands.
TEXT_OPTIONS: dict[str, Any] = {"run_dir": str | None, "ckpt_path": str | None}

"""Names and types of all options, from the signatures of methods, data sets and subcommands."""

import importlib
import inspect
import types
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import promptstage
from promptstage import datamodules, lightning_modules
from promptstage.command_line.commands import loaded_commands

# Options that name a class by its short name, with the names of promptstage's classes.
FAMILIES: dict[str, list[str]] = {
    "model": lightning_modules.__all__,
    "data": datamodules.__all__,
    "decoder": ["Greedy", "Sampling"],
}

OptionPath = tuple[str, ...]


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


@cache
def class_options(cls: type) -> dict[OptionPath, Any]:
    """Return the types of a class's options by path, ``("init", "text")``."""
    options: dict[OptionPath, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" not in vars(base) or base.__module__.startswith(("lightning.", "torch.", "builtins")):
            continue
        options |= parameters(vars(base)["__init__"])
    return {path: kind for path, kind in options.items() if path[0] != "backbone"}


def parameters(function: Any) -> dict[OptionPath, Any]:
    """Return the types of a function's parameters by path; a dataclass counts as its fields."""
    hints = get_type_hints(function)
    options: dict[OptionPath, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self" or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        options |= _flat((parameter.name,), hints.get(parameter.name, Any))
    return options


def _flat(path: OptionPath, kind: Any) -> dict[OptionPath, Any]:
    if not (is_dataclass(kind) and isinstance(kind, type)):
        return {path: kind}
    hints = get_type_hints(kind)
    flat: dict[OptionPath, Any] = {}
    for field in fields(kind):
        flat |= _flat((*path, field.name), hints[field.name])
    return flat


def option_types(classes: Mapping[str, str], typed: Collection[str]) -> dict[OptionPath, Any]:
    """Return the types of a configuration's options by path, ``("model", "init_args", "init", "text")``.

    Args:
        classes: class names by family, as far as they are known.
        typed: class paths that may be imported although they are not promptstage's.
    """
    from promptstage.lightning_modules.backbone.loading import BackboneConfig

    options = _flat(("backbone",), BackboneConfig)
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


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def is_text(kind: Any) -> bool:
    """Return whether an option may be a free text."""
    return any(member in (str, Path) for member in alternatives(kind))


def is_text_list(kind: Any) -> bool:
    """Return whether an option may be a list of texts."""
    return any(get_origin(member) is list and get_args(member) == (str,) for member in alternatives(kind))


def takes_list(kind: Any) -> bool:
    """Return whether an option may be a list."""
    return any(get_origin(member) in (list, tuple, dict) for member in alternatives(kind))


def takes_null(kind: Any) -> bool:
    """Return whether an option may be null."""
    return any(member in (None, type(None)) for member in alternatives(kind))


def is_choice(kind: Any) -> bool:
    """Return whether an option is one of a fixed set of names."""
    return any(get_origin(member) is Literal for member in alternatives(kind))

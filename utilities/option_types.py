"""Types of options, from the signatures of classes and functions, and how their values are read."""

import inspect
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from promptstage.utilities.yaml_values import Scalar

OptionPath = tuple[str, ...]


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
        options |= flat_types((parameter.name,), hints.get(parameter.name, Any))
    return options


def flat_types(path: OptionPath, kind: Any) -> dict[OptionPath, Any]:
    """Return the types of an option by path: of a dataclass those of its fields."""
    if not (is_dataclass(kind) and isinstance(kind, type)):
        return {path: kind}
    hints = get_type_hints(kind)
    flat: dict[OptionPath, Any] = {}
    for field in fields(kind):
        flat |= flat_types((*path, field.name), hints[field.name])
    return flat


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


def takes_mapping(kind: Any) -> bool:
    """Return whether an option may be a mapping of texts."""
    return any(get_origin(member) is dict and get_args(member) == (str, str) for member in alternatives(kind))


def takes_null(kind: Any) -> bool:
    """Return whether an option may be null."""
    return any(member in (None, type(None)) for member in alternatives(kind))


def is_choice(kind: Any) -> bool:
    """Return whether an option is one of a fixed set of names."""
    return any(get_origin(member) is Literal for member in alternatives(kind))


def keeps_text(options: Mapping[OptionPath, Any], path: OptionPath, scalar: Scalar) -> bool:
    """Return whether a scalar in YAML stands for its text as it is written, and not for a number or a date.

    Args:
        options: types of options by path.
        path: that of the scalar; an entry of a list has the list's path and ``[]``.
    """
    if isinstance(scalar.value, str) or path[-1:] == ("class_path",):
        return True
    if path[-1:] == ("[]",):
        return is_text_list(options.get(path[:-1], int))
    if takes_mapping(options.get(path[:-1], int)):
        return True
    kind = options.get(path, int)
    if is_choice(kind) or not is_text(kind):
        return False
    return scalar.value is not None or (scalar.text != "" and not takes_null(kind))

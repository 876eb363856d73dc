"""Settings of an object as values for JSON, by which results name it and a resumed test recognizes it."""

import functools
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from promptstage.utilities.arguments import RecordedArguments

UNRECORDED = "unrecorded"  # key of a value that cannot be recognized
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def is_own(cls: type) -> bool:
    """Return whether promptstage defines a class."""
    return cls.__module__.partition(".")[0] == "promptstage"


def class_path(cls: type) -> str:
    """Return the dotted name of a class; of a script's, the name by which it can be imported."""
    return f"{_module_name(cls.__module__)}.{cls.__qualname__}"


def _module_name(name: str) -> str:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).stem if name == "__main__" and file else name


def recorded_settings(instance: RecordedArguments) -> dict[str, Any]:
    """Return the settings by which an object is recognized: its class's own, or :func:`class_settings`."""
    own = getattr(type(instance), "_recorded_settings", class_settings)
    settings: dict[str, Any] = own(instance)
    return settings


def class_settings(instance: RecordedArguments) -> dict[str, Any]:
    """Return an object's class and constructor arguments as values for JSON.

    Tensors become digests, and values that differ in each process ``{"unrecorded": TYPE}``.
    """
    cls = type(instance)
    named = {"name": cls.__name__} | ({} if is_own(cls) else {"class": class_path(cls)})
    arguments = {key: recorded_value(value) for key, value in instance.constructor_arguments.items()}
    return named | {f"{key}_" if key in named else key: value for key, value in arguments.items()}


def unrecorded(settings: Any, name: str = "") -> Iterator[str]:
    """Yield the names and types of settings that cannot be recognized."""
    if isinstance(settings, Mapping):
        if settings.keys() == {UNRECORDED}:
            yield f"{name} ({settings[UNRECORDED]})"
        else:
            for key, value in settings.items():
                yield from unrecorded(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, list):
        for number, value in enumerate(settings):
            yield from unrecorded(value, f"{name}[{number}]")


def recorded_value(value: Any) -> Any:
    """Return a value as JSON can hold it: equal for equal settings, in each process."""
    import numpy as np  # not needed by the command line's help
    import torch

    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if isinstance(value, float | np.generic):
        plain = value.item() if isinstance(value, np.generic) else float(value)
        finite = not isinstance(plain, float) or abs(plain) < float("inf")
        return plain if finite and isinstance(plain, bool | int | float | str) else repr(plain)
    if isinstance(value, RecordedArguments):
        return recorded_settings(value)
    if isinstance(value, Mapping):
        return {str(key): recorded_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [recorded_value(part) for part in value]
    if isinstance(value, Set):
        return sorted((recorded_value(part) for part in value), key=repr)
    if isinstance(value, torch.Tensor | np.ndarray | torch.nn.Module):
        return _digest(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: recorded_value(getattr(value, field.name)) for field in fields(value)}
    return _named(value)


def _named(value: Any) -> Any:
    """Return the name or the representation of any other object."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, re.Pattern):
        return f"re.compile({value.pattern!r}, {value.flags})"
    if isinstance(value, functools.partial):
        keywords = recorded_value(value.keywords)
        return {"partial": recorded_value(value.func), "args": recorded_value(value.args)} | keywords
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        owner = getattr(value, "__self__", None)
        if "<" not in value.__qualname__ and (owner is None or isinstance(owner, ModuleType)):
            return f"{_module_name(value.__module__ or '')}.{value.__qualname__}"
        return {UNRECORDED: f"function {value.__name__}"}
    text = repr(value) if type(value).__repr__ is not object.__repr__ else ""
    return {UNRECORDED: type(value).__name__} if not text or _ADDRESS.search(text) else text


def _digest(value: Any) -> Any:
    import numpy as np
    import torch

    from promptstage.utilities.tensor_files import tensors_digest

    if isinstance(value, torch.nn.Module):
        return {"module": type(value).__name__, "sha256": tensors_digest(value.state_dict())}
    about = {"shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return {UNRECORDED: "array of objects"}
        return about | {"sha256": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}
    return about | {"sha256": tensors_digest({"": value})}

"""Constructor arguments as plain values, and back."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Self, get_type_hints

from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.reading import validated

BACKBONE = "backbone"  # stored on its own


class RecordedArguments:
    """Base of classes that know the arguments they were made with.

    A class of its own, since the command line's parser takes options from ``__new__`` where a class has both
    that and ``__init__``.

    Attributes:
        constructor_arguments: arguments of the constructor, defaults included and the backbone excluded.
    """

    constructor_arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().__new__(cls)
        # Past the attributes of nn.Module, which is not initialized yet.
        instance.__dict__["constructor_arguments"] = bound_arguments(cls, args, kwargs)
        return instance

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self).__init__).parameters
        given = {
            name: value
            for name, value in self.constructor_arguments.items()
            if name not in parameters or not _equal(value, parameters[name].default)
        }
        if (config := getattr(self, "backbone_config", None)) is not None:
            given = {BACKBONE: config.name} | given
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _equal(value: Any, default: Any) -> bool:
    try:
        return value is default or bool(value == default)
    except (TypeError, ValueError, RuntimeError):  # of arrays, the comparison has no single result
        return False


def bound_arguments(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments, except the backbone, by name; empty if the call is invalid."""
    try:
        bound = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs)  # type: ignore[misc]
    except TypeError:
        return {}  # the constructor itself raises it
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL and not value:
            continue  # object.__init__ has it
        elif name not in ("self", BACKBONE):
            arguments[name] = value
    return arguments


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return arguments as values that JSON can hold.

    Dataclasses become mappings and tuples lists. None if a value of another type is among them, which only
    classes outside this project have.
    """
    try:
        return {name: _plain(value) for name, value in arguments.items()}
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise TypeError(f"{type(value).__name__} is not a plain value")


def typed_arguments(cls: type, arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert plain values to the types that the constructor of ``cls`` annotates.

    Args:
        where: origin of the values, for messages.

    Raises:
        UserError: naming ``where`` and the first argument that is unknown or has another type.
    """
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]  # of the class given, not of an instance
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    names = [name for name in parameters if name not in ("self", BACKBONE)]
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    typed: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in names and not takes_any:
            raise UserError(f"{where}: {cls.__name__} has no argument {name!r:.60}: {nearest(name, names)}")
        typed[name] = validated(hints.get(name, Any), value, f"{where}: argument '{name}'")
    return typed

"""Check for null values of options that need a value, which the parser accepts."""

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from jsonargparse import Namespace

from promptstage.command_line.schema import option_types
from promptstage.utilities.errors import UserError
from promptstage.utilities.option_types import OptionPath, parameters, takes_null


@cache
def trainer_options() -> dict[OptionPath, Any]:
    """Return the types of the trainer's options by path."""
    from lightning.pytorch import Trainer

    return {("trainer", *path): kind for path, kind in parameters(Trainer.__init__).items()}


def null_options(values: Mapping[str, Any], options: Mapping[OptionPath, Any]) -> Iterator[str]:
    """Yield the options that are null but need a value."""
    for path, kind in options.items():
        inner: Any = values
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        null = isinstance(inner, Mapping) and path[-1] in inner and inner[path[-1]] is None
        if null and kind is not Any and not takes_null(kind):
            yield ".".join(key for key in path if key != "init_args")


def check_nulls(config: Namespace) -> None:
    """Check a parsed configuration, promptstage's callbacks included.

    Raises:
        UserError: for a null that an option does not take.
    """
    from promptstage.composition.user_callbacks import as_list

    values = config.as_dict()
    classes = {
        section: values[section]["class_path"]
        for section in ("model", "data")
        if isinstance(values.get(section), Mapping)
    }
    # A user's class has been imported by now if the command line names it.
    nulls = [f"option --{name}" for name in null_options(values, option_types(classes, classes.values()))]
    for callback in as_list(values["trainer"].get("callbacks")):
        nulls += _of_callback(callback)
    if nulls:
        raise UserError(f"{nulls[0]} needs a value, got null")


def _of_callback(spec: Any) -> Iterator[str]:
    module, _, name = str(spec.get("class_path") if isinstance(spec, Mapping) else "").rpartition(".")
    if module != "promptstage" and not module.startswith("promptstage.callbacks."):
        return  # Lightning's callbacks are checked when they are instantiated
    cls = getattr(importlib.import_module(module), name)
    for option in null_options(spec.get("init_args") or {}, parameters(cls.__init__)):
        yield f"{name}: option --trainer.callbacks.{option}"

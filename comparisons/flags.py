"""Values in the flags of a comparison's rows, and in the files that they name."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import yaml

from promptstage import datamodules
from promptstage.comparisons import references
from promptstage.utilities.errors import UserError
from promptstage.utilities.includes import read_file
from promptstage.utilities.yaml_values import plain

# Flags of a row that a test without a checkpoint uses.
HARDWARE = tuple(
    f"--trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "precision")
)
FOR_TEST = ("-c", "--config", "--data", "--backbone", references.UNTRAINED)


def for_test(flags: Iterable[str]) -> list[str]:
    """Return those flags that a test without a checkpoint takes, with the values after them."""
    return _beginning_with(FOR_TEST, flags)


def of_hardware(flags: Iterable[str]) -> list[str]:
    """Return those flags that select the hardware, with the values after them."""
    return _beginning_with(HARDWARE, flags)


def _beginning_with(names: tuple[str, ...], flags: Iterable[str]) -> list[str]:
    matching, matches = [], False
    for flag in flags:
        if flag.startswith("--") or flag == "-c":
            matches = flag.startswith(names)
        if matches:
            matching.append(flag)
    return matching


def data_set(flags: Sequence[str]) -> str | None:
    """Return the data set in a row's flags; None for a user's class."""
    name = chosen_class(flags, "data")
    return name if name in datamodules.__all__ else None


def chosen_class(flags: Sequence[str], section: str) -> str:
    """Return the last class in flags and files for ``model`` or ``data``, without its module."""
    path = ""
    for option, following in pairwise([*flags, ""]):
        option, equals, value = option.partition("=")
        value = value if equals else following
        if option == f"--{section}":
            path = value
        elif option in ("-c", "--config"):
            for values in sections(value, section):
                path = str(values.get("class_path", path))
    return path.rpartition(".")[2]


def values_of(flags: Sequence[str], section: str) -> dict[str, Any]:
    """Return the values that flags and their files give to the keys of a section, as plain values.

    Flags override files. A class has its ``init_args`` among the keys, and its name at ``class_path``.
    """
    stored: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for option, following in pairwise([*flags, ""]):
        name, equals, value = option.partition("=")
        value = value if equals else following
        if name in ("-c", "--config"):
            for values in sections(value, section):
                own = values.get("init_args")
                stored |= {key: value for key, value in values.items() if key != "init_args"}
                stored |= own if isinstance(own, dict) else {}
        elif name == f"--{section}":
            given["class_path"] = value
        elif name.startswith(f"--{section}."):
            given[name.removeprefix(f"--{section}.")] = parsed(value)
    return stored | given


def parsed(value: str) -> Any:
    """Parse the text of a flag as YAML; a text that is not valid YAML stays a text."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def devices(flags: Sequence[str]) -> tuple[int | None, str]:
    """Return the numbers of devices and of machines of a command with these flags.

    The number of devices is None if the flags leave it to Lightning, which then uses all GPUs.
    """
    trainer = values_of(flags, "trainer")
    value = trainer.get("devices", "auto")
    if value in ("auto", -1, "-1", None):
        count = 1 if trainer.get("accelerator", "auto") == "cpu" else None
    else:
        count = len(value) if isinstance(value, list) else value if isinstance(value, int) else None
    return count, str(trainer.get("num_nodes", 1))


def starts_processes(flags: Sequence[str]) -> bool:
    """Return whether a command with these flags may use several devices, and so start further ranks."""
    count, machines = devices(flags)
    if count is None:
        count = max(1, torch.cuda.device_count())
    return count != 1 or machines != "1"


def sections(file: str, section: str) -> Iterator[dict[str, Any]]:
    """Yield a section of a configuration file and of those that it includes, in the order of reading.

    Nothing if a file is not valid, which the command reports.
    """
    try:
        documents = read_file(file, "configuration")
    except UserError:
        return
    for document in documents:
        values = plain(document.tree, lambda *_: False)
        if isinstance(values, dict) and isinstance(values.get(section), dict):
            yield values[section]

"""Names in configuration files: option keys, classes, and places that output goes to."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from command_line.schema import OptionPath
from utilities.errors import UserError
from utilities.yaml_values import Tree

# Trainer options that instantiate objects; they are never read from a checkpoint.
CLASSES = ("callbacks", "logger", "plugins", "profiler", "strategy")
_NAME = re.compile(r"(?!__)[\w-]+")
_CLASS = re.compile(r"\w+(\.\w+)*")
# Names of options with an output path, or a server that receives output.
_WRITTEN = re.compile(r"(dir|directory|path|folder|filename|root|uri|url|location)$")
_ELSEWHERE = re.compile(r"[/~]|[a-zA-Z]+:|.*[/\\]\.\.([/\\]|$)|\.\.([/\\]|$)", re.DOTALL)


def is_class_name(name: str) -> bool:
    """Return whether this could be the name of a class, short or dotted: no path, no YAML."""
    return _CLASS.fullmatch(name) is not None


def check_names(tree: Tree, where: str) -> None:
    """Check that each key is one name, and none of the parser's own.

    The parser reads ``trainer.logger``, ``callbacks+``, ``config`` and ``__path__`` as more than a name, past
    every check of nested values.

    Raises:
        UserError: for another key.
    """
    if isinstance(tree, dict) and "config" in tree:
        raise UserError(f"{where} names another configuration: give each with -c on the command line")
    _check_keys(tree, where)


def _check_keys(tree: Tree, where: str) -> None:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if not _NAME.fullmatch(key):
                hint = ": write its parts as nested mappings" if "." in key else ""
                raise UserError(f"{where}: the key {key!r:.60} is not the name of an option{hint}")
            _check_keys(value, where)
    elif isinstance(tree, list):
        for value in tree:
            _check_keys(value, where)


def class_paths(values: Any, path: OptionPath = ()) -> Iterator[tuple[OptionPath, str]]:
    """Yield every class that a configuration names, and where."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key == "class_path":
                yield (*path, key), str(value)
            else:
                yield from class_paths(value, (*path, str(key)))
    elif isinstance(values, list):
        for value in values:
            yield from class_paths(value, path)
    elif isinstance(values, str) and path[:1] == ("trainer",) and len(path) == 2 and path[1] in CLASSES:
        yield path, values


def written_paths(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options of a file that set output paths or servers."""
    if values.get("answers") not in (None, "-"):
        yield "answers"
    trainer = values.get("trainer")
    if not isinstance(trainer, Mapping):
        return
    for name in ("default_root_dir", *CLASSES):
        for path, value in leaves(trainer.get(name), (name,)):
            if isinstance(value, str) and sets_output_path(path[-1], value):
                yield f"trainer.{'.'.join(path)}".replace(".init_args", "")


def sets_output_path(name: str, value: str) -> bool:
    """Return whether an option of a callback, logger or plugin sets where output goes.

    A logger's name and version are parts of a path, too.
    """
    return bool(value and (_WRITTEN.search(name) or _ELSEWHERE.match(value)))


def leaves(values: Any, path: OptionPath) -> Iterator[tuple[OptionPath, Any]]:
    """Yield every scalar and where it stands; names of classes are left out."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key != "class_path":
                yield from leaves(value, (*path, str(key)))
    elif isinstance(values, list):
        for value in values:
            yield from leaves(value, path)
    else:
        yield path, values

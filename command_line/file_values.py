"""Names in configuration files: option keys, classes and output paths."""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from promptstage.utilities.class_names import current_name
from promptstage.utilities.errors import UserError
from promptstage.utilities.option_types import OptionPath
from promptstage.utilities.yaml_values import Tree

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
    """Check that each key is a single name, without syntax of the parser.

    The parser expands ``trainer.logger``, ``callbacks+``, ``config`` and ``__path__``, which would bypass the
    checks of nested values.

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
    """Yield every class that a configuration names, with its path."""
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


def with_current_names(values: Any) -> Any:
    """Return plain values with the class names of earlier versions replaced by the present ones."""
    if isinstance(values, Mapping):
        return {key: with_current_names(value) for key, value in values.items()}
    if isinstance(values, list):
        return [with_current_names(value) for value in values]
    return current_name(values) if isinstance(values, str) else values


def written_paths(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the options of a file that set output paths or servers, each with the flags that do the same."""
    if values.get("answers") not in (None, "-"):
        yield "answers", f"--answers {shlex.quote(str(values['answers']))}"
    trainer = values.get("trainer")
    if not isinstance(trainer, Mapping):
        return
    for name in ("default_root_dir", *CLASSES):
        specs = trainer.get(name)
        for spec in specs if isinstance(specs, list) else [specs]:
            cls = str(spec.get("class_path")).rpartition(".")[2] if isinstance(spec, Mapping) else ""
            for path, value in leaves(spec, (name,)):
                if isinstance(value, str) and sets_output_path(path[-1], value):
                    option = f"trainer.{'.'.join(path)}".replace(".init_args", "")
                    named = f"--trainer.{name} {cls} " if cls else ""
                    yield option, f"{named}--{option} {shlex.quote(value)}"


def drop_overridden(values: dict[str, Any], typed: Mapping[str, Collection[str]]) -> None:
    """Remove output paths from a file's values that the command line sets.

    A callback is removed as a whole: the one on the command line would otherwise stand beside it.

    Args:
        typed: options on the command line, without ``--`` and ``init_args``, with their values.
    """
    if "answers" in typed:
        values.pop("answers", None)
    trainer = values.get("trainer")
    if not isinstance(trainer, dict):
        return
    for name in CLASSES:
        specs = trainer.get(name)
        remaining = [
            spec
            for each in (specs if isinstance(specs, list) else [specs])
            if (spec := _not_overridden(each, name, typed)) is not None
        ]
        if isinstance(specs, list):
            trainer[name] = remaining
        elif specs is not None:
            trainer |= {name: remaining[0] if remaining else []}


def _not_overridden(spec: Any, name: str, typed: Mapping[str, Collection[str]]) -> Any:
    """Return one object's class and options without overridden output paths; None without the object."""
    options = spec.get("init_args") if isinstance(spec, Mapping) else None
    if not isinstance(options, Mapping):
        return spec
    section = f"trainer.{name}"
    written = {
        key for key, value in options.items() if isinstance(value, str) and sets_output_path(key, value)
    }
    if name == "callbacks":
        short = str(spec.get("class_path")).rpartition(".")[2]
        again = short in {value.rpartition(".")[2] for value in typed.get(section, ())}
        return None if again and any(f"{section}.{key}" in typed for key in written) else spec
    if section not in typed:
        written = {key for key in written if f"{section}.{key}" in typed}
    return {**spec, "init_args": {key: value for key, value in options.items() if key not in written}}


def sets_output_path(name: str, value: str) -> bool:
    """Return whether an option of a callback, logger or plugin sets where output goes.

    A logger's name and version are parts of a path, too.
    """
    return bool(value and (_WRITTEN.search(name) or _ELSEWHERE.match(value)))


def leaves(values: Any, path: OptionPath) -> Iterator[tuple[OptionPath, Any]]:
    """Yield every scalar with its path, except names of classes."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key != "class_path":
                yield from leaves(value, (*path, str(key)))
    elif isinstance(values, list):
        for value in values:
            yield from leaves(value, path)
    else:
        yield path, values

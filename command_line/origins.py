"""Place of an option in the configuration files of a command line, for messages about it."""

import os
import re
from collections.abc import Iterator, Sequence

import yaml

from promptstage.command_line.arguments import options_of
from promptstage.utilities.includes import Document, read_file
from promptstage.utilities.reading import read_text
from promptstage.utilities.shipped_files import existing_or_shipped
from promptstage.utilities.yaml_values import LIMIT, Loader

_OPTION = re.compile(r"option (?:--)?([\w.]+)(?=[ :])")


def with_origin(message: str, given: list[str]) -> str:
    """Return a message about an option, preceded by file and line if a configuration file sets the option.

    Args:
        message: one line, such as ``option trainr.max_steps is unknown: …``.
        given: the command line, whose options precede those of files.
    """
    match = _OPTION.match(message)
    if match is None:
        return message
    key = _plain(match[1])
    for arg in given:
        typed = _plain(arg.partition("=")[0].removeprefix("--"))
        if arg.startswith("--") and (f".{typed}".endswith(f".{key}") or f".{key}".endswith(f".{typed}")):
            return message
    for document in reversed(list(_documents(given))):
        if line := _line_of(document.path, key.split(".")):
            return f"{document.where}:{line}: {message}"
    return message


def _plain(key: str) -> str:
    return key.replace(".init_args", "")


def _documents(given: list[str]) -> Iterator[Document]:
    """Yield the configuration files of the command line and those that they include, in their order."""
    for name, *values in options_of(given):
        option, equals, value = name.partition("=")
        value = value if equals else "".join(values[:1])
        if option in ("-c", "--config") and os.path.isfile(existing_or_shipped(os.path.expanduser(value))):
            yield from read_file(value, "configuration")


def _line_of(path: str, parts: Sequence[str]) -> int:
    """Return the number of the line with the key whose path ends in ``parts``; 0 if there is none."""
    node = yaml.compose(read_text(path, "configuration", LIMIT), Loader)
    found = (line for keys, line in _keys(node, ()) if keys[-len(parts) :] == tuple(parts))
    return next(found, 0)


def _keys(node: yaml.Node | None, outer: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield each key's path, without ``init_args``, and line."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _keys(item, outer)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = outer if key.value == "init_args" else (*outer, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _keys(value, path)

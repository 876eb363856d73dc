"""``--print_config=comments``: the help of each option, from the docstrings, above its value."""

import importlib
import re
import textwrap
from argparse import SUPPRESS
from typing import Any

import yaml

from promptstage.command_line.file_values import CLASSES
from promptstage.command_line.schema import FAMILIES
from promptstage.utilities.yaml_values import Loader

WIDTH = 100
# Options that take a class and its options, or a list of these.
OF_CLASSES = (*FAMILIES, *(f"trainer.{name}" for name in CLASSES))
_ROLE = re.compile(r":\w+:`(?:~[\w.]*\.)?([^`]*)`")  # :class:`~package.Name`

Comments = dict[int, list[str]]


def commented(text: str, parser: Any) -> str:
    """Insert comments into a configuration.

    Args:
        text: configuration as YAML, each key in a line of its own.
        parser: parser of its options.
    """
    root = yaml.compose(text, Loader)
    assert isinstance(root, yaml.MappingNode)
    comments: Comments = {}
    _comment_options(root, "", parser, comments)
    lines = text.splitlines()
    return "\n".join(line for i, own in enumerate(lines) for line in (*comments.get(i, ()), own)) + "\n"


def _comment_options(node: yaml.MappingNode, section: str, parser: Any, comments: Comments) -> None:
    """Add comments on the options of a section, by line.

    Args:
        section: name of the section with a dot at its end; empty for all options of the parser.
    """
    helps = _helps(parser)
    for key, value in node.value:
        name = section + key.value
        if name in helps:
            new_section = key.start_mark.column == 0 and isinstance(value, yaml.MappingNode)
            _comment(key, helps[name], comments, [""] if new_section else [])
        if name in OF_CLASSES:
            for spec in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                _comment_class(spec, FAMILIES.get(name, []), parser, comments)
        elif isinstance(value, yaml.MappingNode):
            _comment_options(value, f"{name}.", parser, comments)


def _comment_class(spec: yaml.Node, allowed: list[str], parser: Any, comments: Comments) -> None:
    """Add comments on the options of a class, and on its name if it is one of ``allowed``."""
    cls: object = None
    for key, value in spec.value if isinstance(spec, yaml.MappingNode) else ():
        if key.value == "class_path":
            module, _, last = value.value.rpartition(".")
            # The parser has imported the class.
            cls = getattr(importlib.import_module(module), last)
            if allowed:
                _comment(key, f"{', '.join(allowed[:-1])} or {allowed[-1]}", comments)
        elif key.value == "init_args" and isinstance(value, yaml.MappingNode) and isinstance(cls, type):
            own = type(parser)()
            own.add_class_arguments(cls, fail_untyped=False)
            _comment_options(value, "", own, comments)


def _helps(parser: Any) -> dict[str, str]:
    """Return the help of each option and the title of each group by name."""
    helps = {action.dest: action.help for action in parser._actions if action.help not in (None, SUPPRESS)}
    return helps | {name: group.title for name, group in parser.groups.items()}


def _comment(key: yaml.Node, text: str, comments: Comments, above: list[str] | None = None) -> None:
    """Add a comment on a key: a help text with ``null`` for Python's ``None``, without markup."""
    text = _ROLE.sub(r"\1", " ".join(text.replace("``", "").split()))
    text = re.sub(r"\bNone\b", "null", text).removesuffix(".")
    indent = " " * key.start_mark.column + "# "
    wrapped = textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    comments[key.start_mark.line] = [*(above or []), *wrapped]

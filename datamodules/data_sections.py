"""Data sets named in options: by class, by YAML file, or by class and options as in a configuration."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

from promptstage import datamodules
from promptstage.datamodules.sources import FILE
from promptstage.grading.functions import is_function_name
from promptstage.utilities.class_names import current_name
from promptstage.utilities.errors import UserError, nearest
from promptstage.utilities.includes import read_file
from promptstage.utilities.option_types import class_options, keeps_text
from promptstage.utilities.reading import validated
from promptstage.utilities.shipped_files import existing_or_shipped
from promptstage.utilities.yaml_values import Scalar, Tree, plain

TEST_ON, PARTS = "test_on", "parts"
OPTIONS = (TEST_ON, PARTS)  # options that name other data sets
LENGTHS = ("in", "ood")  # values of the option test_on of generated questions
DEEPEST = 4  # levels of data sets that name others

Section = dict[str, Any]
"""``class_path``, the full name of one of promptstage's data sets, and ``init_args``, its options."""


def own_class(name: object) -> str | None:
    """Return the short name of one of promptstage's data sets, given by its short or full name, or None.

    >>> own_class("promptstage.GSM8K"), own_class("my_module.Mine")
    ('GSM8K', None)
    """
    package, _, short = current_name(str(name)).rpartition(".")
    return short if short in datamodules.__all__ and package in ("", "promptstage") else None


def complete(option: str, value: Any, where: str, files: bool = True, depth: int = 0) -> Any:
    """Return the value of ``test_on`` or ``parts``, with class and options of each data set that it names.

    Args:
        option: ``test_on`` or ``parts``.
        value: a parsed YAML tree, or plain values.
        where: origin of the value, for messages.
        files: whether the value may name YAML files.

    Raises:
        UserError: if a file cannot be read, or a data set is not one of promptstage's.
    """
    tree = _as_tree(value)
    if depth > DEEPEST:
        raise UserError(f"{where}: data sets can be nested at most {DEEPEST} levels deep")
    if option == PARTS:
        return [
            _section(part, where, files, depth) | {"weight": weight} for part, weight in _parts(tree, where)
        ]
    if isinstance(tree, Scalar) and (tree.value is None or tree.text in LENGTHS):
        return tree.value
    return _section(tree, where, files, depth)


def make_data_set(section: Mapping[str, Any], where: str, **options: Any) -> Any:
    """Make the data set of a section of :func:`complete`.

    Args:
        options: values that override those of the section.

    Raises:
        UserError: if an option is unknown, or its value not allowed.
    """
    cls = getattr(datamodules, str(own_class(section["class_path"])))
    types = class_options(cls)
    names = [name for (name, *_) in types]
    arguments: dict[str, Any] = {}
    for name, value in {**section["init_args"], **options}.items():
        if name not in names:
            raise UserError(f"{where}: {cls.__name__} has no option {name!r:.60}: {nearest(name, names)}")
        arguments[name] = validated(types[(name,)], value, f"{where}: {name}")
    try:
        return cls(**arguments)
    except TypeError as error:  # an option is missing, or is one that the class sets
        *first, last = re.findall(r"'(\w+)'", str(error)) or [str(error)]
        options_named = f"{', '.join(first)} and {last}" if first else last
        problem = "needs" if " missing " in str(error) else "sets by itself"
        raise UserError(f"{where}: {cls.__name__} {problem} {options_named}") from error


def function_kinds(section: Any) -> Iterator[str]:
    """Yield the Python functions that ``answer_kind`` names, also in the data sets that a section names."""
    if isinstance(section, Mapping):
        for key, value in section.items():
            if key == "answer_kind" and isinstance(value, str) and is_function_name(value):
                yield value
            yield from function_kinds(value)
    elif isinstance(section, list):
        for value in section:
            yield from function_kinds(value)


def _as_tree(value: Any) -> Tree:
    """Return plain values as a parsed YAML tree, which keeps the text of each."""
    if isinstance(value, Mapping):
        return {str(key): _as_tree(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_tree(part) for part in value]
    return value if isinstance(value, Scalar) else Scalar(value, "" if value is None else str(value))


def _parts(tree: Tree, where: str) -> Iterator[tuple[Tree, Any]]:
    """Yield each part of a mixture with its weight."""
    if isinstance(tree, Scalar):
        raise UserError(
            f"{where} must be data sets with weights, such as {{GSM8K: 2}}, got {tree.text!r:.60}"
        )
    for item in tree.items() if isinstance(tree, dict) else tree:
        if isinstance(item, tuple):
            name, weight = item
            part: Tree = Scalar(name, name)
        elif not isinstance(item, dict) or "class_path" not in item:
            given = item.text if isinstance(item, Scalar) else plain(item, lambda *_: True)
            raise UserError(
                f"{where} must be data sets with weights, such as {{GSM8K: 2, my.yaml: 1}}, got a list with "
                f"{given!r:.60}"
            )
        else:
            inner = dict(item)
            part, weight = inner, inner.pop("weight", Scalar(None, ""))
        yield part, weight.value if isinstance(weight, Scalar) else plain(weight, lambda *_: False)


def _section(tree: Tree, where: str, files: bool, depth: int) -> Section:
    if isinstance(tree, Scalar) and own_class(tree.text) is None:
        tree = _from_file(tree.text, where, files)
    if isinstance(tree, Scalar):
        tree = {"class_path": tree}
    name = tree.get("class_path") if isinstance(tree, dict) else None
    short = own_class(name.text if isinstance(name, Scalar) else name)
    if not isinstance(tree, dict) or short is None:
        shown = repr(name.text if isinstance(name, Scalar) else name)
        raise UserError(
            f"{where} names the data set {shown:.60}, which is not one of promptstage's: "
            f"{nearest(shown, datamodules.__all__)}"
        )
    for key in tree.keys() - {"class_path", "init_args"}:
        raise UserError(f"{where} must have class_path and init_args only, got {key!r:.60}")
    inner = tree.get("init_args", {})
    if not isinstance(inner, dict):
        raise UserError(f"{where}: init_args must be a mapping of options, got {inner!r:.60}")
    return {"class_path": f"promptstage.{short}", "init_args": _options(short, inner, where, files, depth)}


def _options(name: str, tree: dict[str, Tree], where: str, files: bool, depth: int) -> dict[str, Any]:
    types = class_options(getattr(datamodules, name))
    own = {key: value for key, value in tree.items() if key not in OPTIONS}
    values = plain(own, lambda path, scalar: keeps_text(types, path, scalar))
    others = {
        key: complete(key, tree[key], f"{where}: {key}", files, depth + 1) for key in OPTIONS if key in tree
    }
    return {**values, **others}


def _from_file(name: str, where: str, files: bool) -> Tree:
    """Read the section ``data`` of a YAML file, and of those that it includes, as ``-c`` does."""
    path = existing_or_shipped(os.path.expanduser(name))
    if FILE.search(name):
        raise UserError(
            f"{where}: {name:.80} is a file of rows: name a YAML file whose section 'data' has it as source"
        )
    if files and name.endswith((".yaml", ".yml")) and not os.path.lexists(path):
        raise UserError(f"{where}: file {name:.80} does not exist")
    if not files or not os.path.lexists(path):
        lengths = "; for Generated also in and ood" if where.endswith(TEST_ON) else ""
        raise UserError(
            f"{where}: data set '{name:.80}' is unknown: {nearest(name, datamodules.__all__)}, or a YAML "
            f"file with a section 'data'{lengths}"
        )
    trees = [document.tree for document in read_file(name, "configuration")]
    sections = [tree["data"] for tree in trees if isinstance(tree, dict) and "data" in tree]
    if not sections:
        raise UserError(f"configuration {name} has no section 'data'")
    return reduce(_overridden, sections)


def _overridden(first: Tree, second: Tree) -> Tree:
    """Return a section with the values of a later file, which may name another class."""
    first, second = (
        {"class_path": section} if isinstance(section, Scalar) else section for section in (first, second)
    )
    if not isinstance(first, dict) or not isinstance(second, dict):
        return second
    before, after = first.get("init_args", {}), second.get("init_args", {})
    joint = {**first, **second}
    if not isinstance(before, dict) or not isinstance(after, dict):
        return joint
    name = joint.get("class_path")
    short = own_class(name.text if isinstance(name, Scalar) else name)
    if short is not None and joint.get("class_path") != first.get("class_path"):
        options = {name for (name, *_) in class_options(getattr(datamodules, short))}
        before = {name: value for name, value in before.items() if name in options}
    return {**joint, "init_args": {**before, **after}}

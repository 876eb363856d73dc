"""Bounded YAML parsing into plain values that keep the text of each scalar.

YAML reads ``2e5`` as a number and ``2024-05-01`` as a date, but for a text option the text itself counts. A
scalar therefore keeps both until the option's type is known.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from promptstage.utilities.errors import UserError

LIMIT = 1 << 20  # characters of a configuration
MAX_VALUES = 20_000
MAX_LEVELS = 32

Path = tuple[str, ...]


@dataclass(frozen=True)
class Scalar:
    """YAML scalar.

    Attributes:
        value: value as interpreted by YAML.
        text: text as written, without quotes.
    """

    value: bool | int | float | str | None
    text: str


Tree = dict[str, Any] | list[Any] | Scalar


class Loader(yaml.SafeLoader):
    """Loader for YAML 1.1 without dates and with the numbers of YAML 1.2.

    ``1e-3`` is a number, ``017`` is 17 and not octal, ``1:30`` is a text and not 90.
    """

    yaml_implicit_resolvers = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag.rpartition(":")[2] not in ("timestamp", "float", "int")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes every text that this loader or a YAML 1.1 loader would not read as a text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_INTEGER = re.compile(r"[-+]?(?:0x[0-9a-fA-F][0-9a-fA-F_]*|0o[0-7][0-7_]*|0b[01][01_]*|[0-9][0-9_]*)$")
for _kind in (Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(
            r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?"
            r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
        ),
        list("-+0123456789."),
    )
    _kind.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "").lower()
    return int(text, 0 if text.lstrip("+-")[1:2].isalpha() else 10)


Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def dump_yaml(values: Any) -> str:
    """Serialize plain values as a YAML document that every parser reads as the same values."""
    return yaml.dump(values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def parse_yaml(text: str, where: str) -> Tree:
    """Parse a YAML document into mappings with text keys, lists and scalars.

    Raises:
        UserError: naming ``where`` and the reason: a syntax error, a tag, a repeated key, or too many levels
            or values (after expanding aliases).
    """
    if len(text) > LIMIT:
        raise UserError(f"{where} must have at most {LIMIT} characters, got {len(text)}")
    try:
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            return Scalar(None, "") if node is None else _Builder(loader, where).build(node, 0)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where} is not valid YAML: {reason}") from error
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply") from error
    except ValueError as error:  # an integer with thousands of digits
        raise UserError(f"{where} is not valid YAML: {error}") from error


class _Builder:
    """Bounded builder of values from nodes; an alias counts as everything it expands to."""

    def __init__(self, loader: Loader, where: str) -> None:
        self.loader, self.where, self.left = loader, where, MAX_VALUES

    def build(self, node: yaml.Node, level: int) -> Tree:
        self.left -= 1
        if self.left < 0 or level > MAX_LEVELS:
            raise UserError(f"{self.where} must have at most {MAX_VALUES} values and {MAX_LEVELS} levels")
        standard = "seq" if isinstance(node, yaml.SequenceNode) else "map"
        if isinstance(node, yaml.CollectionNode) and node.tag != f"tag:yaml.org,2002:{standard}":
            raise self._unsupported(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(inner, level + 1) for inner in node.value]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, level)
        known = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}
        if node.tag not in known:
            raise self._unsupported(node)
        return Scalar(self.loader.construct_object(node), node.value)

    def _unsupported(self, node: yaml.Node) -> UserError:
        return UserError(f"{self.where}:{node.start_mark.line + 1}: type {node.tag} is not supported")

    def _mapping(self, node: yaml.MappingNode, level: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        mapping: dict[str, Any] = {}
        for key, inner in node.value:
            where = f"{self.where}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{where}: a key must be a text")
            value = self.build(inner, level + 1)
            if key.tag == "tag:yaml.org,2002:merge":
                for part in value if isinstance(value, list) else [value]:
                    if not isinstance(part, dict):
                        raise UserError(f"{where}: '<<' merges mappings only")
                    merged = part | merged
            elif key.value in mapping:
                raise UserError(f"{where}: '{key.value}' is given twice")
            else:
                mapping[key.value] = value
        return merged | mapping


def plain(tree: Tree, as_text: Callable[[Path, Scalar], bool], path: Path = ()) -> Any:
    """Resolve a tree to plain values.

    Args:
        tree: the tree.
        as_text: predicate on path and scalar; if it holds, the scalar becomes a text, otherwise its value.
        path: path of the tree; that of a list's entries ends with ``[]``.
    """
    if isinstance(tree, dict):
        return {key: plain(value, as_text, (*path, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plain(value, as_text, (*path, "[]")) for value in tree]
    return tree.text if as_text(path, tree) else tree.value

"""``include`` of a YAML file: files that are read before it, as ``-c A -c B`` reads A before B."""

import difflib
import os
from typing import NamedTuple

from promptstage.utilities.errors import UserError, shown
from promptstage.utilities.reading import read_text
from promptstage.utilities.shipped_files import existing_or_shipped, shipped_file
from promptstage.utilities.yaml_values import LIMIT, Scalar, Tree, parse_yaml, plain

KEY = "include"
MAX_FILES = 64  # that one file includes, directly and through others


class Document(NamedTuple):
    """YAML document without its ``include``.

    Attributes:
        where: its name in messages, such as ``configuration own.yaml``.
        tree: its content.
        path: its file; empty if it was typed.
    """

    where: str
    tree: Tree
    path: str = ""


def read_file(name: str, what: str) -> list[Document]:
    """Read a YAML file and the files that it includes, which come first.

    Paths in ``include`` are relative to the folder of the including file; ``configs/…`` also names the files
    that ship with promptstage.

    Args:
        name: path of the file, as it was typed.
        what: kind of file in messages, such as ``configuration``.

    Raises:
        UserError: if a file cannot be read or parsed, or ``include`` contains anything but paths, creates
            a cycle, or asks for more than 64 files.
    """
    path = existing_or_shipped(os.path.expanduser(name))
    text = read_text(path, what, LIMIT)
    return with_included(Document(f"{what} {name}", parse_yaml(text, f"{what} {name}"), path), what, path)


def with_included(document: Document, what: str, path: str = "") -> list[Document]:
    """Return a document after the files that it includes; see :func:`read_file`.

    Args:
        path: file of the document; empty: it was typed, and paths are relative to the working directory.
    """
    documents: list[Document] = []
    _append(document, what, (path,), documents)
    return documents


def _append(document: Document, what: str, chain: tuple[str, ...], documents: list[Document]) -> None:
    """Append the files that a document includes, then the document.

    Args:
        chain: paths from the first file to this one, each including the next.
    """
    where = document.where
    for value in _take_paths(document.tree, where):
        path = _resolve(value, os.path.dirname(chain[-1]))
        text = read_text(path, f"{where}: included file", LIMIT)
        if os.path.realpath(path) in map(os.path.realpath, chain):
            raise UserError(f"{where}: including {path} creates a cycle")
        if len(documents) + len(chain) > MAX_FILES:
            raise UserError(
                f"{where}: a file must include at most {MAX_FILES} files, directly and through others"
            )
        inner = Document(f"{what} {path}", parse_yaml(text, f"{what} {path}"), path)
        _append(inner, what, (*chain, path), documents)
    documents.append(document)


def _take_paths(tree: Tree, where: str) -> list[str]:
    """Remove ``include`` from a document, and return its paths."""
    for key in tree if isinstance(tree, dict) else ():
        if key != KEY and difflib.get_close_matches(key.lower(), [KEY], cutoff=0.8):
            raise UserError(f"{where}: the key {key!r:.60} is unknown: did you mean {KEY}?")
    if not isinstance(tree, dict) or KEY not in tree:
        return []
    value = tree.pop(KEY)
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        text = entry.value if isinstance(entry, Scalar) else None
        if not isinstance(text, str) or not text or not text.isprintable():
            given = shown(plain(entry, lambda *_: False))
            raise UserError(f"{where}: include must be a path or a list of paths, got {given:.60}")
    return [entry.text for entry in entries]


def _resolve(value: str, folder: str) -> str:
    """Return the path of an included file, whether it exists or not."""
    path = os.path.join(folder, os.path.expanduser(value))
    return path if os.path.lexists(path) else shipped_file(value) or path

"""Files of splits that the README.md of a data set from the Hub declares, as in a clone of its repository.

The YAML before the README's text has a list ``configs`` of configurations, each with ``config_name`` and
``data_files``: paths or patterns, which hold the training split, or a list of ``split`` with ``path``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from promptstage.datamodules.files import ALIASES, check_parts, is_data_file
from promptstage.datamodules.sources import list_names
from promptstage.utilities.errors import UserError
from promptstage.utilities.reading import read_text
from promptstage.utilities.yaml_values import LIMIT, parse_yaml, plain

README = "README.md"
DEFAULT = "default"
MOST_FILES = 10_000  # that one pattern may match
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)

Patterns = dict[str, list[str]]
"""Patterns of files, by split."""


def declared_configs(root: Path) -> dict[str, Patterns]:
    """Return the configurations that the README of a folder declares; none if it has no readable list.

    The one marked as default, or the only one, is also named ``default``.
    """
    if not (root / README).is_file():
        return {}
    try:
        text = read_text(root / README, "file")
        front = _FRONT_MATTER.match(text[:LIMIT])
        values = plain(parse_yaml(front[1], README), lambda *_: True) if front else None
    except UserError:  # a README is for people; without a list, files are found by their names
        return {}
    entries = values.get("configs") if isinstance(values, dict) else None
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    configs = {
        str(entry.get("config_name", DEFAULT)): _patterns(entry.get("data_files")) for entry in entries
    }
    marked = [
        str(entry.get("config_name", DEFAULT))
        for entry in entries
        if entry.get("default") in ("true", "True")
    ]
    first = next(iter(marked or (configs if len(configs) == 1 else ())), None)
    return configs if first is None else {DEFAULT: configs[first], **configs}


def _patterns(value: Any) -> Patterns:
    """Return the patterns of ``data_files`` by split; what has another form is left out."""
    found: Patterns = {}
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, Mapping):
            split, paths = str(item.get("split", "train")), item.get("path")
        else:
            split, paths = "train", item
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str) and path:
                found.setdefault(split, []).append(path)
    return found


def declared_files(root: Path, configs: Sequence[str], split: str) -> list[Path]:
    """Return the files that the README declares for a split of all ``configs``; none if it lacks one.

    Raises:
        UserError: if a path is outside the folder, or parts of a split are missing.
    """
    known = declared_configs(root)
    files: list[Path] = []
    for config in configs:
        patterns = _of_split(known.get(config, {}), split)
        own = [file for pattern in patterns for file in _matches(root, pattern)]
        if not own:
            return []
        files += dict.fromkeys(own)
    return files


def _of_split(patterns: Patterns, split: str) -> list[str]:
    names = (name for name in ALIASES.get(split, (split,)) if name in patterns)
    return next((patterns[name] for name in names), [])


def _matches(root: Path, pattern: str) -> list[Path]:
    path = PurePosixPath(pattern)
    outside = not path.parts or path.is_absolute() or ".." in path.parts or re.match(r"~|\w+:|.*\\", pattern)
    if outside or pattern.count("**") > 1:
        raise UserError(f"{root / README}: data_files must be paths in this folder, got {pattern!r:.80}")
    files: list[Path] = []
    for file in root.glob(path.as_posix()):
        if is_data_file(file) and file.is_file():
            files.append(file)
        if len(files) > MOST_FILES:
            raise UserError(f"{root / README}: {pattern!r:.80} matches more than {MOST_FILES:,} files")
    check_parts(files)
    return sorted(files)


def subsets_of(root: Path) -> list[str]:
    """Return the names that ``subset`` may have: configurations in the README, and subfolders with data."""
    folders = (path.name for path in root.iterdir() if path.is_dir() and any(_data_files(path)))
    return sorted({*folders, *declared_configs(root)} - {DEFAULT, "data"})


def _data_files(folder: Path) -> Iterator[str]:
    return (path.name for path in folder.iterdir() if is_data_file(path))


def missing_split(root: Path, folder: Path, configs: Sequence[str], split: str, option: str) -> UserError:
    """Return the error of a folder that has no file of a split.

    Args:
        root: the source.
        folder: the source, or its subfolder.
        option: option that names a subfolder.
    """
    there = list_names(sorted(_data_files(folder))) if folder.is_dir() else ""
    message = f"data folder {folder} has no {split}.jsonl (data files there: {there or 'none'})"
    known = declared_configs(root)
    splits = {name for config in configs for name in known.get(config, ())}
    if splits:
        return UserError(f"{message}; {README} declares the splits {list_names(sorted(splits))}")
    if folder == root and (subsets := subsets_of(root)):
        return UserError(f"{message}; set {option} to one of {list_names(subsets)}")
    return UserError(message)

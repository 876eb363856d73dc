"""What ``scripts.compare`` is told: a YAML file with the rows of a table."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from utilities.errors import UserError, choose

UNTRAINED = "--model=Pretrained"
# What a test without a checkpoint takes of a row's flags.
FOR_TEST = ("-c", "--config", "--data", "--backbone", UNTRAINED)


@dataclass(frozen=True)
class Comparison:
    """The keys of the file.

    Attributes:
        title: what the table is about.
        rows: name of each row → its own flags, which win over the options.
        files: configuration files of every row.
        options: flags of every row.
        test_options: flags of every test.
    """

    title: str
    rows: dict[str, list[str]]
    files: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    test_options: list[str] = field(default_factory=list)

    def flags(self, row: str) -> list[str]:
        """All flags of a row, common ones first."""
        files = [part for file in self.files for part in ("-c", file)]
        return [*files, *self.options, *self.rows[row]]


def read(path: Path) -> Comparison:
    """The comparison in a file.

    Raises:
        UserError: when it cannot be read, something in it is unknown or of another kind, or a file that it
            names does not exist.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    keys = [known.name for known in fields(Comparison)]
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no keys: allowed are {', '.join(keys)}")
    for key in values:
        choose(f"{path}: key", str(key), keys)
    rows = values.get("rows")
    if not isinstance(values.get("title"), str) or not isinstance(rows, dict) or not rows:
        raise UserError(f"{path} needs a title, and rows with their flags")
    lists = {key: values[key] for key in ("files", "options", "test_options") if key in values}
    for what, flags in [*lists.items(), *((f"row '{row}'", rows[row]) for row in rows)]:
        if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
            raise UserError(f"{path}: {what} must be a list of texts, such as [--trainer.max_steps=100]")
    folders = [folder_name(str(row)) for row in rows]
    for row, folder in zip(rows, folders, strict=True):
        if not isinstance(row, str) or not folder or folders.count(folder) > 1:
            raise UserError(f"{path}: row '{row}' needs a name, a text, that gives a folder of its own")
    for file in lists.get("files", []):
        if not Path(file).is_file():
            raise UserError(f"{path}: file {file} does not exist (paths start from {Path.cwd()})")
    return Comparison(values["title"], rows, **lists)


def folder_name(row: str) -> str:
    """``G=2`` → ``g-2``."""
    return re.sub(r"\W+", "-", row.lower()).strip("-")


def for_test(flags: Iterable[str]) -> list[str]:
    """Those flags that a test without a checkpoint takes, with the values after them."""
    kept, keep = [], False
    for flag in flags:
        if flag.startswith("--") or flag == "-c":
            keep = flag.startswith(FOR_TEST)
        if keep:
            kept.append(flag)
    return kept

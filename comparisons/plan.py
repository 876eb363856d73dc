"""YAML file of a comparison: rows of the table and their flags."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from promptstage import datamodules
from promptstage.command_line.assembly import check_flags
from promptstage.comparisons import references
from promptstage.comparisons.finished import folder_name
from promptstage.comparisons.flags import data_set
from promptstage.comparisons.table import FigureKind
from promptstage.datamodules.sources import local_path
from promptstage.utilities.errors import UserError, choose, nearest, printable
from promptstage.utilities.includes import Document, read_file
from promptstage.utilities.shipped_files import existing_or_shipped
from promptstage.utilities.yaml_values import plain

GENERATED = ("Generated", "Sequences")  # data sets without files


@dataclass(frozen=True)
class Again:
    """Row that tests the prompt of another row again.

    Attributes:
        of: name of the other row.
        test: flags of its test, such as those of DPC.
        calibrate: calibrate DPC's threshold first, unless another row has done so.
    """

    of: str
    test: list[str] = field(default_factory=list)
    calibrate: bool = False


class Run(NamedTuple):
    """Row with one of the seeds."""

    row: str
    seed: int | None = None

    @property
    def name(self) -> str:
        """Name in the table."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"

    def trained(self, comparison: "Comparison") -> "Run":
        """Return the run that trains the checkpoint: this run, or that of the row named in ``of``."""
        return Run(comparison.trained(self.row), self.seed)


@dataclass(frozen=True)
class Comparison:
    """Keys of the YAML file.

    Attributes:
        title: title of the table.
        rows: flags of each row by its name, which override ``options``; or the keys of ``Again``. In flags
            ``{seed}`` is the run's seed, also in those of tests, and ``{run:ROW}`` the folder of a row's run
            with the same seed.
        files: configuration files of all rows.
        options: flags of all rows.
        test_options: flags of all tests.
        seeds: seeds to run each row with; empty: once, with the default seed.
        against: row that all others are compared with; None: compare rows that have ``of`` with that row.
        figure: draw the accuracies as bars or lines; None: no figure.
    """

    title: str
    rows: dict[str, list[str] | Again]
    files: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    test_options: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    against: str | None = None
    figure: FigureKind | None = None

    def reference(self, row: str) -> str | None:
        """Return the row that ``row`` is compared with, or None."""
        reference = self.trained(row) if self.against is None else self.against
        return None if reference == row else reference

    def runs(self, rows: Collection[str]) -> list[Run]:
        """Return the runs of some rows, seed by seed."""
        seeds: list[int | None] = [*self.seeds] or [None]
        return [Run(row, seed) for seed in seeds for row in rows]

    def needed(self, run: Run) -> list[Run]:
        """Return the runs that must be finished before a run starts: those it is of, or refers to."""
        source = run.trained(self)
        named = [Run(row, run.seed) for row in references.rows_of(self.flags(run.row))]
        return [*([] if source == run else [source]), *named]

    def planned(self, rows: Collection[str]) -> list[Run]:
        """Return the runs of some rows, seed by seed, each after those that it needs."""
        ordered: dict[Run, None] = {}

        def add(run: Run) -> None:
            for other in self.needed(run):
                add(other)
            ordered.setdefault(run)

        for run in self.runs(rows):
            add(run)
        return list(ordered)

    def trained(self, row: str) -> str:
        """Return the row that trains the checkpoint of ``row``: itself, or the row named in ``of``."""
        value = self.rows[row]
        return value.of if isinstance(value, Again) else row

    def flags(self, row: str) -> list[str]:
        """Return all training flags of a row, common flags first."""
        files = [part for file in self.files for part in ("-c", file)]
        own = self.rows[self.trained(row)]
        assert isinstance(own, list)
        return [*files, *self.options, *own]

    def test_flags(self, row: str) -> list[str]:
        """Return all test flags of a row except those of its model."""
        value = self.rows[row]
        return [*self.test_options, *(value.test if isinstance(value, Again) else [])]


def read(path: Path) -> Comparison:
    """Read a comparison from a YAML file.

    Raises:
        UserError: if it cannot be read, a key is unknown or its value invalid, or a file that it names does
            not exist.
    """
    values = _merged(read_file(str(path), "comparison"))
    rows = values.get("rows")
    if not isinstance(values.get("title"), str) or not isinstance(rows, dict) or not rows:
        raise UserError(f"{path} must have a title, and rows with their flags")
    lists = {key: values[key] for key in ("files", "options", "test_options") if key in values}
    for row, value in rows.items():
        if isinstance(value, dict):
            rows[row] = _again(path, str(row), value, rows)
    named = ((f"row '{row}'", value) for row, value in rows.items() if not isinstance(value, Again))
    for name, flags in [*lists.items(), *named]:
        if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
            raise UserError(f"{path}: {name} must be a list of texts, such as [--trainer.max_steps=100]")
        check_flags(flags, f"{path}: {name}")
    folders = [folder_name(str(row)) for row in rows]
    for row, folder in zip(rows, folders, strict=True):
        if not isinstance(row, str) or not row.isprintable() or not folder or folders.count(folder) > 1:
            raise UserError(f"{path}: name of row '{row}' must be a printable text with a unique folder name")
    for file in lists.get("files", []):
        if not Path(existing_or_shipped(file)).is_file():
            raise UserError(f"{path}: file {file} does not exist (paths start from {Path.cwd()})")
    seeds = values.get("seeds", [])
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path}: seeds must be a list of integers")
    against, figure = values.get("against"), values.get("figure")
    own = {row: value for row, value in rows.items() if isinstance(value, list)}
    again = [value.test for value in rows.values() if isinstance(value, Again)]
    tests = [flag for flags in (lists.get("test_options", []), *again) for flag in flags]
    references.check(str(path), own, lists.get("options", []), tests, seeds)
    if against is not None:
        choose(f"{path}: against", str(against), rows)
    if figure is not None:
        choose(f"{path}: figure", str(figure), get_args(FigureKind))
    return Comparison(printable(values["title"]), rows, **lists, seeds=seeds, against=against, figure=figure)


def _merged(documents: Iterable[Document]) -> dict[str, Any]:
    """Merge comparison files: a later file replaces keys of earlier ones; rows are replaced one by one.

    Raises:
        UserError: if one is not a mapping, or has an unknown key.
    """
    keys = [known.name for known in fields(Comparison)]
    merged: dict[str, Any] = {}
    for where, tree, _ in documents:
        # Flags are texts, as on the command line.
        values = plain(tree, lambda place, _: place[-1] == "[]" and place[0] != "seeds" if place else False)
        if not isinstance(values, dict):
            raise UserError(f"{where} must be a mapping with the keys {', '.join(keys)}")
        for key in values:
            choose(f"{where}: key", str(key), keys)
        if isinstance(rows := values.get("rows"), dict) and isinstance(merged.get("rows"), dict):
            values["rows"] = merged["rows"] | rows
        merged |= values
    return merged


def _again(path: Path, row: str, value: dict[str, Any], rows: dict[str, Any]) -> Again:
    """Check a row that tests another row's prompt.

    Raises:
        UserError: if ``of`` is not a row with training, or a key is unknown.
    """
    known = [key.name for key in fields(Again)]
    for key in value:
        choose(f"{path}: row '{row}': key", str(key), known)
    trained = [name for name, flags in rows.items() if isinstance(flags, list)]
    choose(f"{path}: row '{row}': of", str(value.get("of")), trained)
    again = Again(**value)
    if not isinstance(again.test, list) or not all(isinstance(flag, str) for flag in again.test):
        raise UserError(f"{path}: row '{row}': test must be a list of texts")
    check_flags(again.test, f"{path}: row '{row}': test")
    return again


def with_sources(comparison: Comparison, sources: Iterable[str]) -> Comparison:
    """Add ``--data.source`` to the rows of some data sets.

    Args:
        sources: ``DATASET=FOLDER`` or ``DATASET=HUB_ID`` each; the data set's name is case-insensitive.

    Raises:
        UserError: if a data set is unknown, reads no files or is in no row, or a folder does not exist.
    """
    known = {name.lower(): name for name in datamodules.__all__ if name not in GENERATED}
    used = {row: data_set(comparison.flags(row)) for row in comparison.rows}
    folders: dict[str | None, str] = {}
    for value in sources:
        name, equals, folder = value.partition("=")
        if not equals or not folder:
            raise UserError(f"--source must be DATASET=FOLDER, such as prontoqa=FOLDER, got {value!r:.100}")
        if name.lower() not in known:
            raise UserError(f"--source: data set {name!r:.100} is unknown: {nearest(name.lower(), known)}")
        name = known[name.lower()]
        if name not in used.values():
            raise UserError(f"--source: no row has data set {name}")
        if name in folders:
            raise UserError(f"--source gives data set {name} twice")
        local_path(folder)
        folders[name] = folder
    rows: dict[str, list[str] | Again] = {
        row: [*flags, f"--data.source={folders[used[row]]}"]
        if isinstance(flags, list) and used[row] in folders
        else flags
        for row, flags in comparison.rows.items()
    }
    return replace(comparison, rows=rows)

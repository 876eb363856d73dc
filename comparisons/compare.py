"""Commands of a comparison: run its rows, or read finished ones, and print the table."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from promptstage.comparisons.array_script import array_script
from promptstage.comparisons.command_log import duration
from promptstage.comparisons.commands import Commands
from promptstage.comparisons.finished import finished_rows
from promptstage.comparisons.pairs import write_pairs
from promptstage.comparisons.plan import read, with_sources
from promptstage.comparisons.results import Row
from promptstage.comparisons.row_names import chosen_rows
from promptstage.comparisons.runs import Runs
from promptstage.comparisons.table import (
    COLUMNS,
    FigureKind,
    accuracy_figure,
    cells,
    conclusion,
    markdown,
    pairs,
)
from promptstage.comparisons.workers import Worker, claim_log, claims_in
from promptstage.utilities.errors import UserError, choose, printable
from promptstage.utilities.files import make_folder, new_folder, write_bytes, write_text
from promptstage.utilities.plurals import counted

LEFT = ("row", "stages", "selected by", "against")  # columns of text


def report(title: str, rows: Sequence[Row], folder: Path, figure: FigureKind | None) -> list[list[str]]:
    """Write ``table.md``, ``pairs.jsonl`` and ``accuracy.png`` into a folder; return the table's lines."""
    lines = cells(rows)
    write_text(folder / "table.md", markdown(title, lines))
    if compared := pairs(rows):
        write_text(folder / "pairs.jsonl", write_pairs(compared))
    if figure is not None:
        from promptstage.callbacks.figures import png

        write_bytes(folder / "accuracy.png", png(accuracy_figure(title, rows, figure)))
    return lines


def show(title: str, lines: Sequence[Sequence[str]], console: Console) -> None:
    """Print the table; columns without a value are left out."""
    shown = [i for i in range(len(COLUMNS)) if any(line[i] != "–" for line in lines)]
    table = Table(title=escape(title))
    for i in shown:
        table.add_column(COLUMNS[i], justify="left" if COLUMNS[i] in LEFT else "right")
    for line in lines:
        table.add_row(*(escape(line[i]) for i in shown))
    console.print(table)


def run_comparison(options: argparse.Namespace, extra: list[str], console: Console) -> int:
    """Run the comparison in a YAML file, and print its table; return the exit code.

    Raises:
        UserError: if an option or the file is invalid.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("compare must be started on one rank: its commands start further ranks themselves")
    if len(options.targets) > 1:
        raise UserError(
            f"compare takes one FILE.yaml or folders of finished runs, got {' '.join(options.targets)}"
        )
    file = Path(options.targets[0])
    comparison = with_sources(read(file), options.source)
    changes = {key: value for key in ("against", "figure") if (value := getattr(options, key)) is not None}
    if "against" in changes:
        choose("row", changes["against"], comparison.rows)
    comparison = replace(comparison, **changes)
    rows = chosen_rows(options.rows, comparison.rows) if options.rows else list(comparison.rows)
    folder = options.run_dir or Path("runs", file.stem)
    if options.array is not None:
        print(array_script(options, extra, folder, comparison, rows), end="")
        return 0
    if options.resume:
        make_folder(folder)  # not a numbered one: workers may start at the same time
    else:
        folder = new_folder(folder)
    commands = Commands()
    with claims_in(folder, commands) as claims:
        if not options.verbose:
            commands.log = claim_log(claims, folder)
        return _work(Runs(comparison, folder, extra, commands, claims), rows, console)


def _work(runs: Runs, rows: Sequence[str], console: Console) -> int:
    """Run the rows with the other workers in the folder, and print the table; return the exit code."""
    started = time.monotonic()
    planned, folder, log = runs.comparison.planned(rows), runs.folder, runs.commands.log
    for run in planned:
        runs.check(run)
    where = "" if log is None else f"; output of the commands is in {log}"
    _print(console, f"{counted(len(planned), 'row')} into {folder}{where}")
    lines: list[list[str]] = []

    def write_table() -> None:
        lines[:] = report(runs.title, runs.rows(), folder, runs.comparison.figure)

    finished = Worker(runs, runs.claims, partial(_print, console), write_table).work(planned)
    show(runs.title, lines, console)
    if sentence := conclusion(pairs(runs.rows())):
        _print(console, sentence)
    _print(
        console,
        f"{duration(time.monotonic() - started)} in total; the table is in {folder / 'table.md'}; curves and "
        f"generations: tensorboard --logdir {folder}",
    )
    return 0 if finished else 1


def _print(console: Console, line: str) -> None:
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def compare_finished(options: argparse.Namespace, extra: list[str], console: Console) -> int:
    """Print the table of finished runs; return the exit code.

    Raises:
        UserError: if an option is for YAML files only, or a folder has no results.
    """
    if extra or options.rows or options.resume or options.source or options.array:
        raise UserError(
            "--rows, --resume, --array, --source and flags after -- require a FILE.yaml, not finished runs"
        )
    rows = finished_rows(options.targets, options.against)
    if options.against is not None:
        choose("row", options.against, [row.name for row in rows])
        compared = {pair.after.name for pair in pairs(rows)}
        for row in rows:
            if row.against is not None and row.name not in compared:
                note = f"note: row '{row.name}' shares no question and seed with '{row.against}'"
                print(f"{printable(note)}: it is not compared", file=sys.stderr)
    title = f"Finished runs: {', '.join(row.name for row in rows)}"
    if options.run_dir is None:
        if options.figure:
            raise UserError("--figure needs --run-dir: the folder that accuracy.png is written to")
        show(title, cells(rows), console)
        return 0
    folder = new_folder(options.run_dir)  # existing files are not replaced
    show(title, report(title, rows, folder, options.figure), console)
    console.print(printable(f"the table is in {folder / 'table.md'}"), markup=False)
    return 0

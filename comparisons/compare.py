"""Commands of a comparison: run its rows, or read finished ones, and print the table."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from promptstage.comparisons.command_log import duration
from promptstage.comparisons.plan import read, with_sources
from promptstage.comparisons.results import Row, finished_rows, write_pairs
from promptstage.comparisons.row_names import chosen_rows
from promptstage.comparisons.runs import LOG, Runs
from promptstage.comparisons.table import (
    COLUMNS,
    FigureKind,
    accuracy_figure,
    cells,
    conclusion,
    markdown,
    pairs,
)
from promptstage.utilities.errors import UserError, choose, printable
from promptstage.utilities.files import new_folder, write_bytes, write_text
from promptstage.utilities.plurals import counted


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
        table.add_column(
            COLUMNS[i], justify="left" if COLUMNS[i] in ("row", "stages", "against") else "right"
        )
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
    if not options.resume or not folder.is_dir():
        folder = new_folder(folder)
    started = time.monotonic()
    runs = Runs(comparison, folder, extra, options.verbose)
    lines: list[list[str]] = []
    planned = list(comparison.runs(rows))
    where = "" if options.verbose else f"; output of the commands is in {folder / LOG}"
    _print(console, f"{counted(len(planned), 'row')} into {folder}{where}")
    for number, run in enumerate(planned, start=1):
        before = time.monotonic()
        runs.complete(run)
        now = time.monotonic()
        # After every row, in case the comparison is interrupted.
        lines = report(runs.title, runs.rows(), folder, comparison.figure)
        left = (now - started) / number * (len(planned) - number)
        rest = f", about {duration(left)} left" if number < len(planned) else ""
        took = duration(now - before)
        _print(console, f"row {number} of {len(planned)}: {run.name}: {runs.outcome(run)} ({took}{rest})")
    show(runs.title, lines, console)
    if sentence := conclusion(pairs(runs.rows())):
        _print(console, sentence)
    _print(
        console,
        f"{duration(time.monotonic() - started)} in total; the table is in {folder / 'table.md'}; curves and "
        f"generations: tensorboard --logdir {folder}",
    )
    return 0


def _print(console: Console, line: str) -> None:
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def compare_finished(options: argparse.Namespace, extra: list[str], console: Console) -> int:
    """Print the table of finished runs; return the exit code.

    Raises:
        UserError: if an option is for YAML files only, or a folder has no results.
    """
    if extra or options.rows or options.resume or options.source:
        raise UserError(
            "--rows, --resume, --source and flags after -- require a FILE.yaml, not finished runs"
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

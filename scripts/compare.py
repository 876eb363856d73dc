"""python -m scripts.compare FILE.yaml: several runs in one table.

Each row is a ``fit`` and a ``test`` of ``cli.py``, as a user would type them; they are printed, and run in
this process on one device. A row with ``--model=Pretrained`` is only tested: of all flags it takes those of
data and backbone. ``configs/experiment/demo.yaml`` is such a FILE, ``scripts/comparison.py`` lists its keys.
"""

import argparse
import gc
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import cli
from scripts.comparison import UNTRAINED, Comparison, folder_name, for_test, read
from utilities.errors import UserError, choose
from utilities.files import new_folder, write_text

COLUMNS = ("row", "stages", "trained parameters", "accuracy", "95 % interval", "correct", "fit", "test")


class Runs:
    """The runs of a comparison in a folder.

    Beside them are ``table.md``, and each row's flags and seconds in ``compare.json``.

    Args:
        extra: flags that win over those of all rows.
    """

    def __init__(self, comparison: Comparison, folder: Path, extra: Sequence[str], console: Console) -> None:
        self.comparison, self.folder, self.console = comparison, folder, console
        self.extra = list(extra)
        self.title = comparison.title + (f" (but {' '.join(self.extra)})" if self.extra else "")
        self.record_file = folder / "compare.json"
        self.records: dict[str, dict[str, Any]] = {}
        if self.record_file.exists():
            self.records = json.loads(self.record_file.read_text(encoding="utf-8"))

    def path(self, row: str) -> Path:
        """Folder of the row's run."""
        return self.folder / folder_name(row)

    def summary(self, row: str) -> dict[str, Any] | None:
        """Of the newest test; None before one has ended."""
        found = self.path(row).glob("test*/summary.json")
        newest = max(found, key=lambda file: file.stat().st_mtime, default=None)
        return json.loads(newest.read_text(encoding="utf-8")) if newest else None

    def complete(self, row: str) -> None:
        """Run what the row still lacks of a fit and a test.

        Raises:
            UserError: when it was begun with other flags.
            SystemExit: when a command failed.
        """
        self.console.rule(escape(row))
        run, flags = self.path(row), [*self.comparison.flags(row), *self.extra]
        if self.records.get(row, {}).get("flags", flags) != flags:
            raise UserError(
                f"row '{row}' of {self.folder} was begun with other flags: give another --run-dir"
            )
        if self.summary(row):
            self.console.print(f"{run} is kept", markup=False, highlight=False)
            return
        self._record(row, flags=flags)
        source = [f"--ckpt_path={run}"]
        if UNTRAINED in flags:
            source = [*for_test(flags), f"--run_dir={run}"]
        elif not (run / "prompt.safetensors").exists():  # the last thing that a fit writes
            begun = (run / "checkpoints" / "last.ckpt").exists()
            if run.exists() and not begun:
                # Stopped before its first checkpoint; a fit would take another folder.
                run.rename(new_folder(run.with_name(f"{run.name}-interrupted")))
            resumed = source if begun else []
            seconds = self._run(["fit", *flags, f"--run_dir={run}", *resumed])
            self._record(row, fit=None if begun else seconds)  # None: a part of it only
        self._record(row, test=self._run(["test", *source, *self.comparison.test_options]))

    def _record(self, row: str, **values: Any) -> None:
        self.records.setdefault(row, {}).update(values)
        write_text(self.record_file, json.dumps(self.records, indent=2, ensure_ascii=False) + "\n")

    def _run(self, arguments: list[str]) -> float:
        """Seconds of a ``cli.py`` command in this process (a new one would import torch again)."""
        command = f"$ python cli.py {shlex.join(arguments)}"
        self.console.print(command, style="dim", markup=False, highlight=False)
        started = time.monotonic()
        code = cli.main(arguments)
        gc.collect()  # model and trainer refer to each other: the next backbone needs the memory
        if code:
            raise SystemExit(code)
        return round(time.monotonic() - started, 1)

    def table(self) -> list[list[str]]:
        """The rows that have a result, in the order of COLUMNS."""
        return [self._cells(row, found) for row in self.comparison.rows if (found := self.summary(row))]

    def _cells(self, row: str, found: dict[str, Any]) -> list[str]:
        file, seconds = self.path(row) / "partition.json", self.records.get(row, {})
        return [
            row,
            json.loads(file.read_text(encoding="utf-8"))["stages_as_runs"] if file.exists() else "–",
            f"{found['trained_parameters']:,}",
            f"{found['accuracy']:.3f}",
            f"{found['accuracy_low']:.3f} – {found['accuracy_high']:.3f}",
            f"{found['correct']} / {found['examples']}",
            *("–" if seconds.get(part) is None else f"{seconds[part]:.0f} s" for part in ("fit", "test")),
        ]

    def write(self) -> None:
        """Write ``table.md``."""
        # A bar between stages would be one between columns.
        rows = [[cell.replace("|", r"\|") for cell in cells] for cells in self.table()]
        lines = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
        write_text(self.folder / "table.md", "\n".join([self.title, "", *lines, ""]))

    def show(self) -> None:
        """Print the table."""
        table = Table(title=escape(self.title))
        for i, name in enumerate(COLUMNS):
            table.add_column(name, justify="left" if i < 2 else "right")
        for cells in self.table():
            table.add_row(*map(escape, cells))
        self.console.print(table)


def main(args: Sequence[str] | None = None) -> int:
    """Run a comparison; the exit code is 2 for a mistake of the user."""
    given = list(sys.argv[1:] if args is None else args)
    at = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare",
        description=__doc__,
        epilog="After --: flags for every row, which win over the file's.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="what to compare")
    parser.add_argument("--run-dir", type=Path, help="folder of all runs and table.md; default: runs/FILE")
    parser.add_argument("--rows", help="names of the rows to run, with commas between; default: all")
    parser.add_argument("--resume", action="store_true", help="keep what --run-dir has, run what it lacks")
    options = parser.parse_args(given[:at])
    console = Console(width=None if Console().is_terminal else 160)
    try:
        comparison = read(options.file)
        names = options.rows.split(",") if options.rows else list(comparison.rows)
        rows = [choose("row", name.strip(), comparison.rows) for name in names]
        folder = options.run_dir or Path("runs", options.file.stem)
        if not options.resume or not folder.is_dir():
            folder = new_folder(folder)
        started = time.monotonic()
        runs = Runs(comparison, folder, given[at + 1 :], console)
        for row in rows:
            runs.complete(row)
            runs.write()  # a long table may be interrupted
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs.show()
    console.print(f"{time.monotonic() - started:.0f} s in all; the table is in {folder / 'table.md'}")
    console.print(f"curves and sample answers: .venv/bin/tensorboard --logdir {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""python -m scripts.compare FILE.yaml: several runs in one table.

Each row is a ``fit`` and a ``test`` of ``cli.py``, as a user would type them; they are printed, and run in
this process on one device, else in processes of their own. A row with
``--model=Pretrained`` is only tested: of all flags it takes those of data and backbone. A row ``of`` another
one tests that one's prompt again, with a correction; beside its accuracy stand the answers it fixed and
broke, and McNemar's exact p.

``configs/experiment/demo.yaml`` is such a FILE, ``scripts/comparison.py`` lists its keys.
"""

import argparse
import gc
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import cli
from scripts.comparison import (
    UNTRAINED,
    Again,
    Comparison,
    Run,
    folder_name,
    for_test,
    read,
    starts_processes,
    with_sources,
)
from utilities.errors import UserError, choose
from utilities.files import new_folder, write_text
from utilities.intervals import mcnemar

COLUMNS = (
    *("row", "stages", "trained parameters", "accuracy", "95 % interval", "correct"),
    *("fixed / broken", "McNemar p", "fit", "test"),
)


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

    def path(self, run: Run) -> Path:
        """Folder of the run."""
        return self.folder / folder_name(run.name)

    def summary(self, run: Run) -> dict[str, Any] | None:
        """Of the newest test; None before one has ended."""
        found = self.path(run).glob("test*/summary.json")
        newest = max(found, key=lambda file: file.stat().st_mtime, default=None)
        if newest is None:
            return None
        return json.loads(newest.read_text(encoding="utf-8")) | {"folder": newest.parent}

    def complete(self, run: Run) -> None:
        """Run what a row still lacks of a fit, of a calibration and of a test; first the row it is of.

        Raises:
            UserError: when it was begun with other flags.
            SystemExit: when a command failed.
        """
        source = run.of(self.comparison)
        if source != run:
            self.complete(source)
        self.console.rule(escape(run.name))
        own = [] if run.seed is None else [f"--seed_everything={run.seed}", f"--data.seed={run.seed}"]
        flags = [*self.comparison.flags(run.row), *own, *self.extra]
        test = self.comparison.test_flags(run.row)
        wanted = [*flags, *test]
        if self.records.get(run.name, {}).get("flags", wanted) != wanted:
            raise UserError(
                f"row '{run.name}' of {self.folder} was begun with other flags: give another --run-dir"
            )
        if self.summary(run):
            self.console.print(f"{self.path(run)} is kept", markup=False, highlight=False)
            return
        self._record(run, flags=wanted)
        if UNTRAINED in flags:
            model = [*for_test(flags), *own[:1]]
        else:
            model = [f"--ckpt_path={self.path(source)}"]
            self._fit(run if source == run else source, flags)
            self._calibrate(run, source, test)
        self._record(run, test=self._run(["test", *model, f"--run_dir={self.path(run)}", *test]))

    def _fit(self, run: Run, flags: list[str]) -> None:
        folder = self.path(run)
        if (folder / "prompt.safetensors").exists():  # the last thing that a fit writes
            return
        begun = (folder / "checkpoints" / "last.ckpt").exists()
        if folder.exists() and not begun:
            # Stopped before its first checkpoint; a fit would take another folder.
            folder.rename(new_folder(folder.with_name(f"{folder.name}-interrupted")))
        resumed = [f"--ckpt_path={folder}"] if begun else []
        seconds = self._run(["fit", *flags, f"--run_dir={folder}", *resumed])
        self._record(run, fit=None if begun else seconds)  # None: a part of it only

    def _calibrate(self, run: Run, source: Run, test: list[str]) -> None:
        row = self.comparison.rows[run.row]
        if not isinstance(row, Again) or not row.calibrate:
            return
        # The threshold is that of mode dpc, whatever the row does with it.
        flags = [flag for flag in test if not flag.startswith("--trainer.callbacks.mode")]
        if self.records.get(source.name, {}).get("calibrated") == flags:
            return
        # Without --run_dir the threshold is saved beside the checkpoint, for every row that takes it.
        command = ["calibrate", f"--ckpt_path={self.path(source)}", *flags]
        self._record(run, calibrate=self._run(command))
        self._record(source, calibrated=flags)

    def _record(self, run: Run, **values: Any) -> None:
        self.records.setdefault(run.name, {}).update(values)
        write_text(self.record_file, json.dumps(self.records, indent=2, ensure_ascii=False) + "\n")

    def _run(self, arguments: list[str]) -> float:
        """Run a ``cli.py`` command and return its duration in seconds.

        On one device it runs in this process, since a new one would import torch again. Lightning starts
        the other ranks by running the program again, which must then be ``cli.py``, not this one.
        """
        command = f"$ python cli.py {shlex.join(arguments)}"
        self.console.print(command, style="dim", markup=False, highlight=False)
        started = time.monotonic()
        if starts_processes(arguments):
            code = subprocess.run([sys.executable, cli.__file__, *arguments], check=False).returncode
        else:
            code = cli.main(arguments)
            gc.collect()  # model and trainer refer to each other: the next backbone needs the memory
        if code:
            raise SystemExit(code)
        return round(time.monotonic() - started, 1)

    def table(self) -> list[list[str]]:
        """The runs that have a result, in the order of COLUMNS, and every row's mean over its seeds."""
        lines = []
        for row in self.comparison.rows:
            runs = [run for run in self.comparison.runs([row]) if self.summary(run)]
            lines += [self._cells(run) for run in runs]
            if len(runs) > 1:
                lines.append(self._mean(row, runs))
        return lines

    def _cells(self, run: Run) -> list[str]:
        found, seconds = self.summary(run), self.records.get(run.name, {})
        assert found is not None
        file = self.path(run.of(self.comparison)) / "partition.json"
        return [
            run.name,
            json.loads(file.read_text(encoding="utf-8"))["stages_as_runs"] if file.exists() else "–",
            f"{found['trained_parameters']:,}",
            f"{found['accuracy']:.3f}",
            f"{found['accuracy_low']:.3f} – {found['accuracy_high']:.3f}",
            f"{found['correct']} / {found['examples']}",
            *self._against([run]),
            *("–" if seconds.get(part) is None else f"{seconds[part]:.0f} s" for part in ("fit", "test")),
        ]

    def _mean(self, row: str, runs: list[Run]) -> list[str]:
        found = [summary for run in runs if (summary := self.summary(run))]
        accuracies = [summary["accuracy"] for summary in found]
        return [
            f"{row}, mean of {len(runs)} seeds",
            *("–", "–", f"{sum(accuracies) / len(runs):.3f}"),
            f"seeds {min(accuracies):.3f} – {max(accuracies):.3f}",
            f"{sum(one['correct'] for one in found)} / {sum(one['examples'] for one in found)}",
            *self._against(runs),
            *("–", "–"),
        ]

    def _against(self, runs: list[Run]) -> list[str]:
        """Answers fixed and broken against the row that these are of, and McNemar's exact p."""
        sources = [run.of(self.comparison) for run in runs]
        if sources == runs:
            return ["–", "–"]
        before: dict[tuple[int | None, str], bool] = {}
        after: dict[tuple[int | None, str], bool] = {}
        for run, source in zip(runs, sources, strict=True):
            for grades, one in ((before, source), (after, run)):
                found = self.summary(one)
                if found is None:
                    return ["–", "–"]
                lines = (found["folder"] / "results.jsonl").read_text(encoding="utf-8").splitlines()
                rows = (json.loads(line) for line in lines)
                grades.update({(run.seed, row["id"]): bool(row["correct"]) for row in rows})
        both = before.keys() & after.keys()
        fixed = sum(after[key] and not before[key] for key in both)
        broken = sum(before[key] and not after[key] for key in both)
        return [f"{fixed} / {broken}", f"{mcnemar(fixed, broken):.2g}"]

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
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="DATASET=FOLDER",
        help="folder of a data set, for the rows that use it, such as prontoqa=FOLDER; may be repeated",
    )
    parser.add_argument("--resume", action="store_true", help="keep what --run-dir has, run what it lacks")
    options = parser.parse_args(given[:at])
    console = Console(width=None if Console().is_terminal else 160)
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "start scripts.compare in one process: its rows start their own (--trainer.devices)"
            )
        comparison = with_sources(read(options.file), options.source)
        names = options.rows.split(",") if options.rows else list(comparison.rows)
        rows = [choose("row", name.strip(), comparison.rows) for name in names]
        folder = options.run_dir or Path("runs", options.file.stem)
        if not options.resume or not folder.is_dir():
            folder = new_folder(folder)
        started = time.monotonic()
        runs = Runs(comparison, folder, given[at + 1 :], console)
        for run in comparison.runs(rows):
            runs.complete(run)
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

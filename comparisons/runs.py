"""Runs of a comparison, one after the other: fits, calibrations and tests, and what they leave."""

import gc
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import promptstage
from promptstage.command_line.main import main
from promptstage.comparisons import references
from promptstage.comparisons.command_log import errors_in, output_to
from promptstage.comparisons.finished import (
    RECORDS,
    TESTED,
    finished_test,
    finished_tests,
    folder_name,
    read_records,
    stages_of,
)
from promptstage.comparisons.flags import for_test, of_hardware, starts_processes
from promptstage.comparisons.plan import Again, Comparison, Run
from promptstage.comparisons.results import Evaluation, Row
from promptstage.composition.results import read_evaluation
from promptstage.utilities.errors import UserError, printable
from promptstage.utilities.files import new_folder, write_text
from promptstage.utilities.json_text import dump_json

LOG = "log.txt"
# Lightning starts further ranks by running the program again, which must be a file.
PROGRAM = Path(promptstage.__file__).with_name("cli.py")


class Runs:
    """Runs of a comparison in a folder.

    The folder also contains ``table.md`` and ``compare.json``, with the flags and durations of each row.

    Args:
        extra: flags that override those of all rows; only hardware flags apply to tests.
        verbose: commands print to the terminal instead of ``log.txt``.
    """

    def __init__(
        self, comparison: Comparison, folder: Path, extra: Sequence[str], verbose: bool = False
    ) -> None:
        self.comparison, self.folder, self.verbose = comparison, folder, verbose
        self.extra = list(extra)
        self.title = comparison.title + (f" (but {' '.join(self.extra)})" if self.extra else "")
        self.record_file = folder / RECORDS
        self.records: dict[str, dict[str, Any]] = {}
        if self.record_file.exists():
            self.records = read_records(folder)

    def path(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.folder / folder_name(run.name)

    def complete(self, run: Run) -> None:
        """Run the missing fit, calibration and test of a row, after those of the row that it names in ``of``.

        Raises:
            UserError: if the row was started with other flags.
            SystemExit: if a command failed.
        """
        source = run.trained(self.comparison)
        if source != run:
            self.complete(source)
        own = [] if run.seed is None else [f"--seed_everything={run.seed}", f"--data.seed={run.seed}"]
        for row in references.rows_of(self.comparison.flags(run.row)):
            self.complete(Run(row, run.seed))
        flags = references.resolve(
            [*self.comparison.flags(run.row), *own, *self.extra],
            run.seed,
            lambda row: self.path(Run(row, run.seed)),
        )
        test = [*self.comparison.test_flags(run.row), *of_hardware(self.extra)]
        all_flags = [*flags, *test]
        if self.records.get(run.name, {}).get("flags", all_flags) != all_flags:
            raise UserError(
                f"row '{run.name}' of {self.folder} was started with other flags: give another --run-dir"
            )
        if finished_tests(self.path(run)):
            return
        self._record(run, flags=all_flags)
        if references.UNTRAINED in flags:
            model = [*for_test(flags), *own[:1]]
        else:
            model = [f"--ckpt_path={self.path(source)}"]
            self._fit(run if source == run else source, flags)
            self._calibrate(run, source, test)
        seconds = self._run(["test", *model, f"--run_dir={self.path(run)}", *test])
        tested = finished_test(self.path(run))
        self._record(run, test=seconds, **{TESTED: None if tested is None else tested.name})

    def _fit(self, run: Run, flags: list[str]) -> None:
        folder = self.path(run)
        if (folder / "prompt.safetensors").exists():  # written at the end of a fit
            return
        started = (folder / "checkpoints" / "last.ckpt").exists()
        if folder.exists() and not started:
            # Stopped before its first checkpoint; a fit would take another folder.
            folder.rename(new_folder(folder.with_name(f"{folder.name}-interrupted")))
        resumed = [f"--ckpt_path={folder}"] if started else []
        seconds = self._run(["fit", *flags, f"--run_dir={folder}", *resumed])
        self._record(run, fit=None if started else seconds)  # None: only part of it is known

    def _calibrate(self, run: Run, source: Run, test: list[str]) -> None:
        row = self.comparison.rows[run.row]
        if not isinstance(row, Again) or not row.calibrate:
            return
        # The threshold is calibrated in mode dpc, whatever mode the row uses.
        flags = [flag for flag in test if not flag.startswith("--trainer.callbacks.mode")]
        if self.records.get(source.name, {}).get("calibrated") == flags:
            return
        # Without --run_dir the threshold is saved beside the checkpoint, where other rows find it.
        command = ["calibrate", f"--ckpt_path={self.path(source)}", *flags]
        self._record(run, calibrate=self._run(command))
        self._record(source, calibrated=flags)

    def _record(self, run: Run, **values: Any) -> None:
        self.records.setdefault(run.name, {}).update(values)
        write_text(self.record_file, dump_json(self.records, indent=2) + "\n")

    def _run(self, arguments: list[str]) -> float:
        """Run a subcommand and return its duration in seconds.

        On one device it runs in this process, to save the time of importing torch again. Lightning starts
        other ranks by running the program again, which must then be the subcommand, not the comparison.
        """
        command = printable(f"$ promptstage {shlex.join(arguments)}")
        log = self.folder / LOG
        started = time.monotonic()
        with nullcontext() if self.verbose else output_to(log):
            print(command, flush=True)
            if starts_processes(arguments):
                code = subprocess.run([sys.executable, str(PROGRAM), *arguments], check=False).returncode
            else:
                code = main(arguments)
                gc.collect()  # model and trainer are a reference cycle; free its memory for the next backbone
        if code:
            if not self.verbose:
                print("\n".join(errors_in(log)), file=sys.stderr)
                print(f"the failed command is: {command[2:]}; its output is in {log}", file=sys.stderr)
            raise SystemExit(code)
        return round(time.monotonic() - started, 1)

    def outcome(self, run: Run) -> str:
        """Return the accuracy of a finished run with its interval, as text."""
        test = finished_test(self.path(run), self._tested(run.row, run.seed))
        if test is None:
            return "no result"
        summary = read_evaluation(test).summary
        low, high = summary["accuracy_low"], summary["accuracy_high"]
        return f"accuracy {summary['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f})"

    def rows(self) -> list[Row]:
        """Return the rows that have a result."""
        rows = []
        for name in self.comparison.rows:
            done = {run.seed: self.path(run) for run in self.comparison.runs([name])}
            runs = {
                seed: self._evaluation(name, seed, test)
                for seed, run in done.items()
                if (test := finished_test(run, self._tested(name, seed)))
            }
            if runs:
                rows.append(Row(name, runs, self.comparison.reference(name), label=name))
        return rows

    def _tested(self, row: str, seed: int | None) -> Any:
        return self.records.get(Run(row, seed).name, {}).get(TESTED)

    def _evaluation(self, row: str, seed: int | None, test: Path) -> Evaluation:
        run = Run(row, seed)
        return Evaluation(
            test, stages_of(self.path(run.trained(self.comparison))), self.records.get(run.name, {})
        )

"""Runs of a comparison: their folders, flags, commands and records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptstage.callbacks.run.run_folder import is_fitted
from promptstage.comparisons import references
from promptstage.comparisons.claims import Claims
from promptstage.comparisons.commands import Commands
from promptstage.comparisons.finished import (
    RECORDS,
    TESTED,
    finished_test,
    finished_tests,
    folder_name,
    read_records,
    stages_of,
)
from promptstage.comparisons.flags import for_test, of_hardware
from promptstage.comparisons.plan import Again, Comparison, Run
from promptstage.comparisons.results import Evaluation, Row
from promptstage.composition.results import read_evaluation
from promptstage.utilities.errors import UserError
from promptstage.utilities.files import new_folder, write_text
from promptstage.utilities.json_text import dump_json

TABLE = "table"  # claim of a worker that writes the records or the table


class Runs:
    """Runs of a comparison in a folder, which several workers may share.

    The folder also contains ``table.md`` and ``compare.json``, with the flags and durations of each row.

    Args:
        extra: flags that override those of all rows; only hardware flags apply to tests.
        commands: runs the subcommands.
        claims: claims of the workers.
    """

    def __init__(
        self, comparison: Comparison, folder: Path, extra: Sequence[str], commands: Commands, claims: Claims
    ) -> None:
        self.comparison, self.folder, self.commands, self.claims = comparison, folder, commands, claims
        self.extra = list(extra)
        self.title = comparison.title + (f" (but {' '.join(self.extra)})" if self.extra else "")
        self.record_file = folder / RECORDS
        self.records: dict[str, dict[str, Any]] = {}
        self.read_locked()

    def read_locked(self) -> None:
        """Read the records of all workers while no other worker writes them."""
        with self.claims.waiting(TABLE):
            self.read()

    def read(self) -> None:
        """Read the records of all workers; the caller holds the claim on the table.

        Raises:
            UserError: if they are damaged.
        """
        if self.record_file.exists():
            self.records = read_records(self.folder)

    def path(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.folder / folder_name(run.name)

    def flags(self, run: Run) -> list[str]:
        """Return the flags of a run's fit."""
        own = [] if run.seed is None else [f"--seed_everything={run.seed}", f"--data.seed={run.seed}"]
        return self._resolved([*self.comparison.flags(run.row), *own, *self.extra], run)

    def test_flags(self, run: Run) -> list[str]:
        """Return the flags of a run's test, except those of its model."""
        return self._resolved([*self.comparison.test_flags(run.row), *of_hardware(self.extra)], run)

    def _resolved(self, flags: list[str], run: Run) -> list[str]:
        return references.resolve(flags, run.seed, lambda row: self.path(Run(row, run.seed)))

    def is_finished(self, run: Run) -> bool:
        """Return whether a run has a finished test."""
        return bool(finished_tests(self.path(run)))

    def check(self, run: Run) -> None:
        """
        Raises:
            UserError: if the row was started with other flags.
        """
        flags = [*self.flags(run), *self.test_flags(run)]
        if self.records.get(run.name, {}).get("flags", flags) != flags:
            raise UserError(
                f"row '{run.name}' of {self.folder} was started with other flags: give another --run-dir"
            )

    def complete(self, run: Run) -> None:
        """Run the missing fit, calibration and test of a row; the rows that it needs must be finished.

        Raises:
            UserError: if the row was started with other flags.
            SystemExit: if a command failed.
        """
        self.read_locked()
        self.check(run)
        if self.is_finished(run):
            return
        flags, test = self.flags(run), self.test_flags(run)
        self._record(run, flags=[*flags, *test])
        source = run.trained(self.comparison)
        if references.UNTRAINED in flags:
            seed = [] if run.seed is None else [f"--seed_everything={run.seed}"]
            model = [*for_test(flags), *seed]
        else:
            model = [f"--ckpt_path={self.path(source)}"]
            if source == run:
                self._fit(run, flags)
            self._calibrate(run, source)
        seconds = self.commands.run(["test", *model, f"--run_dir={self.path(run)}", *test])
        tested = finished_test(self.path(run))
        self._record(run, test=seconds, **{TESTED: None if tested is None else tested.name})

    def _fit(self, run: Run, flags: list[str]) -> None:
        folder = self.path(run)
        if is_fitted(folder):
            return
        started = (folder / "checkpoints" / "last.ckpt").exists()
        if folder.exists() and not started:
            # Stopped before its first checkpoint; a fit would take another folder.
            folder.rename(new_folder(folder.with_name(f"{folder.name}-interrupted")))
        resumed = [f"--ckpt_path={folder}"] if started else []
        seconds = self.commands.run(["fit", *flags, f"--run_dir={folder}", *resumed])
        self._record(run, fit=None if started else seconds)  # None: only part of it is known

    def calibration(self, run: Run) -> list[str] | None:
        """Return the flags of a row's calibration; None if it has none."""
        row = self.comparison.rows[run.row]
        if not isinstance(row, Again) or not row.calibrate:
            return None
        # The threshold is calibrated in mode dpc, whatever mode the row uses.
        return [flag for flag in self.test_flags(run) if not flag.startswith("--trainer.callbacks.mode")]

    def uses_shared_threshold(self, run: Run) -> bool:
        """Return whether the threshold that a row uses is there, and no row replaces it by another one."""
        self.read_locked()
        own, source = self.calibration(run), run.trained(self.comparison)
        rows = [Run(row, run.seed) for row in self.comparison.rows]
        others = [self.calibration(row) for row in rows if row.trained(self.comparison) == source]
        calibrated = self.records.get(source.name, {}).get("calibrated") == own
        return calibrated and all(other in (None, own) for other in others)

    def _calibrate(self, run: Run, source: Run) -> None:
        flags = self.calibration(run)
        if flags is None or self.records.get(source.name, {}).get("calibrated") == flags:
            return
        # Without --run_dir the threshold is saved beside the checkpoint, where other rows find it.
        command = ["calibrate", f"--ckpt_path={self.path(source)}", *flags]
        self._record(run, calibrate=self.commands.run(command))
        self._record(source, calibrated=flags)

    def _record(self, run: Run, **values: Any) -> None:
        """Add values to the records of a run; those of other workers are kept."""
        with self.claims.waiting(TABLE):
            self.read()
            self.records.setdefault(run.name, {}).update(values)
            write_text(self.record_file, dump_json(self.records, indent=2) + "\n")

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

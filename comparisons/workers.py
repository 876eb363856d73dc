"""Worker of a comparison: claims rows that can run, runs them, and waits for those of other workers."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from promptstage.comparisons.claims import POLL, STALE, Claim, Claims, Holder
from promptstage.comparisons.command_log import duration
from promptstage.comparisons.commands import Commands
from promptstage.comparisons.finished import folder_name
from promptstage.comparisons.plan import Run
from promptstage.comparisons.runs import TABLE, Runs
from promptstage.utilities.errors import printable
from promptstage.utilities.files import LOCK, FolderInUse, FolderLock

CLAIMS = ".claims"  # folder of the claims in that of the comparison
SIGNALED = 128  # least exit code of a command that a signal has ended


@contextmanager
def claims_in(folder: Path, commands: Commands) -> Iterator[Claims]:
    """Open the claims in a comparison's folder; this process ends if it loses one of them."""
    terminal = os.dup(2)  # the output of a command is in the log

    def end(claim: Claim) -> None:
        # Written at once: another worker has already continued the row, in the same folder.
        text = f"error: {claim.name} was taken over by another worker after {STALE:.0f} s without a heartbeat"
        os.write(terminal, f"{printable(text)}: this one ends\n".encode())
        if (child := commands.child) is not None:
            child.kill()
        os._exit(1)

    claims = Claims(folder / CLAIMS, end)
    try:
        yield claims
    finally:
        claims.close()
        os.close(terminal)


def claim_log(claims: Claims, folder: Path) -> Path:
    """Claim the first log that no other running worker writes to: ``log.txt``, ``log-2.txt``, …"""
    number = 1
    while claims.acquire(name := "log" if number == 1 else f"log-{number}") is None:
        number += 1
    return folder / f"{name}.txt"


def await_orphans(folder: Path, show: Callable[[str], None]) -> None:
    """Wait for commands that a killed worker started as processes of their own, and that go on.

    Args:
        folder: folder of a run; commands lock it or the folder of their results.
        show: prints a line.
    """
    for lock in (folder / LOCK, *folder.glob(f"*/{LOCK}")):
        shown = False
        while lock.exists():
            try:
                FolderLock(lock.parent).release()
                break
            except FolderInUse:
                if not shown:
                    show(f"waiting for a command that is writing to {lock.parent}")
                shown = True
                time.sleep(POLL)


class Worker:
    """Worker of a comparison; several share its rows.

    Args:
        show: prints a line.
        report: writes the table, called while no other worker does.
    """

    def __init__(
        self, runs: Runs, claims: Claims, show: Callable[[str], None], report: Callable[[], None]
    ) -> None:
        self.runs, self.claims, self.show, self.report = runs, claims, show, report
        self.failed: dict[Run, str] = {}

    def work(self, planned: Sequence[Run]) -> bool:
        """Run rows until all are finished, by this worker or another; False if some failed in another.

        Args:
            planned: runs, each after those that it needs.

        Raises:
            SystemExit: if a command of this worker failed.
        """
        started = time.monotonic()
        earlier = {run: self.claims.failure(_name(run)) for run in planned}
        pending, waits = list(planned), False
        done_before = sum(map(self._is_done, planned))
        while pending:
            ended, claims = self._next(pending, earlier)
            if ended is None:
                if not waits:
                    self.show(self._waiting(pending))
                waits = True
                time.sleep(POLL)
                continue
            waits = False
            before = time.monotonic()
            if claims:
                self._run(ended, claims)
            pending.remove(ended)
            if ended in self.failed:
                self.show(f"{ended.name}: not run: {self.failed[ended]}")
                continue
            number = len(planned) - len(pending)
            new = max(1, number - done_before)
            left = (time.monotonic() - started) / new * len(pending)
            rest = f", about {duration(left)} left" if pending and number > done_before else ""
            took = duration(time.monotonic() - before)
            outcome = self.runs.outcome(ended)
            if not claims:
                took = "finished before" if number <= done_before else "run by another worker"
            self.show(f"row {number} of {len(planned)}: {ended.name}: {outcome} ({took}{rest})")
        self._report()
        return not self.failed

    def _next(
        self, pending: Sequence[Run], earlier: dict[Run, tuple[int, Holder] | None]
    ) -> tuple[Run | None, list[Claim]]:
        """Return a run that has ended, or one that can run with the claims for it; None if there is none."""
        for run in pending:
            if self._is_done(run):
                return run, []
            failure = self.claims.failure(_name(run))
            if failure is not None and failure != earlier[run]:
                self.failed[run] = f"a command failed on {failure[1]}"
                return run, []
            needed = self.runs.comparison.needed(run)
            if failed := [other for other in needed if other in self.failed]:
                self.failed[run] = f"it needs {failed[0].name}"
                return run, []
            if all(map(self._is_done, needed)) and (claims := self._acquire(run)):
                return run, claims
        return None, []

    def _is_done(self, run: Run) -> bool:
        return self.runs.is_finished(run) and self.claims.holder(_name(run)) is None

    def _acquire(self, run: Run) -> list[Claim]:
        """Claim a row, and the threshold that it calibrates; return nothing if one of them is taken."""
        names = [_name(run)]
        if self.claims.holder(names[0]):
            return []
        if self.runs.calibration(run) is not None and not self.runs.uses_shared_threshold(run):
            source = run.trained(self.runs.comparison)
            names.append(f"calibration-{folder_name(source.name)}")
        if any(self.claims.holder(name) for name in names):
            return []
        claims: list[Claim] = []
        for name in names:
            claim = self.claims.acquire(name)
            if claim is None:
                self._release(claims)
                return []
            claims.append(claim)
        return claims

    def _run(self, run: Run, claims: Sequence[Claim]) -> None:
        if reason := claims[0].holder.taken_over:
            note = f"row {run.name}: taken over from {printable(reason)}"
            self.show(note)
            if self.runs.commands.log is not None:
                with self.runs.commands.log.open("a", encoding="utf-8") as log:
                    print(note, file=log)
        failed = False
        try:
            written = [run] if len(claims) == 1 else [run, run.trained(self.runs.comparison)]
            for other in written:
                await_orphans(self.runs.path(other), self.show)
            self.runs.complete(run)
            self._report()
        except SystemExit as error:
            failed = not isinstance(error.code, int) or error.code < SIGNALED
            raise
        finally:
            self._release(claims, failed)

    def _release(self, claims: Sequence[Claim], failed: bool = False) -> None:
        for number, claim in enumerate(claims):
            self.claims.release(claim, failed and number == 0)

    def _report(self) -> None:
        with self.claims.waiting(TABLE):
            self.runs.read()
            self.report()

    def _waiting(self, pending: Sequence[Run]) -> str:
        held = [(run, self.claims.holder(_name(run))) for run in pending]
        rows = [f"{run.name} ({holder})" for run, holder in held if holder is not None]
        return f"waiting for other workers: {'; '.join(rows) or 'none of the rows is free'}"


def _name(run: Run) -> str:
    """Return the name of the claim on a run."""
    return f"row-{folder_name(run.name)}"

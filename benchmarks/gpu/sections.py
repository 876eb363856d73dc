"""Sections of the report, each within its own time limit and the total one."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import torch

from benchmarks.gpu.device import release_memory
from benchmarks.gpu.report import Report, Rows
from benchmarks.gpu.sizes import Sizes
from promptstage.lightning_modules.backbone.model import Backbone

if TYPE_CHECKING:
    from benchmarks.gpu.embedded import Trained


@dataclass
class Bench:
    """Values that sections share.

    Attributes:
        device: the device under test.
        sizes: sizes of all workloads.
        folder: folder for runs.
        backbone: large random backbone, once a section has built it.
        bandwidth: memory bandwidth in bytes per second, once it was measured.
        reference: the fit on the CPU, once it was made.
    """

    device: torch.device
    sizes: Sizes
    folder: Path
    backbone: Backbone | None = None
    bandwidth: float | None = None
    reference: "Trained | None" = None

    @property
    def model(self) -> Backbone:
        """The large random backbone.

        Raises:
            RuntimeError: if it was not built.
        """
        if self.backbone is None:
            raise RuntimeError("the random backbone was not built")
        return self.backbone


@dataclass(frozen=True)
class Section:
    """Part of the report.

    Attributes:
        name: name in the table.
        share: share of the total time that it may take.
        run: function that adds the rows.
    """

    name: str
    share: float
    run: Callable[[Rows, Bench], None]


class TimeIsUp(BaseException):
    """Raised in the running section; no ``except Exception`` catches it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp in the main thread after ``seconds`` of wall-clock time."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_sections(
    sections: Sequence[Section], report: Report, bench: Bench, seconds: float, folder: Path
) -> None:
    """Run all sections within ``seconds``; write the report to ``folder`` after each."""
    end = time.monotonic() + seconds
    for section in sections:
        rows, begin = Rows(report, section.name), time.monotonic()
        left = end - begin
        if left <= 0:
            rows.skip("all rows", f"the time budget of {seconds / 60:g} minutes is used up")
        else:
            limit = min(section.share * seconds, left)
            try:
                with time_limit(limit), rows.attempt("all further rows"):
                    section.run(rows, bench)
            except TimeIsUp:
                rows.skip("all further rows", f"the section's time budget of {limit:.0f} s is used up")
        release_memory()
        report.seconds[section.name] = round(time.monotonic() - begin, 1)
        report.write(folder)

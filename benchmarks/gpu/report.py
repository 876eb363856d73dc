"""Rows of the report, and its two files: a Markdown table and JSON."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.gpu.device import release_memory
from promptstage.lightning_modules.backbone.boundary import reason

Status = Literal["passed", "failed", "skipped", "measured"]


@dataclass(frozen=True)
class Row:
    """One check or measurement.

    Attributes:
        section: name of its section.
        name: what is checked or measured.
        status: ``measured`` if there is no bound to pass.
        bound: the bound, or the planned or theoretical value that the measured one is compared with.
        measured: the measured value, formatted.
        cause: why it failed or was skipped.
        values: the same numbers for programs, in seconds, bytes and tokens per second.
    """

    section: str
    name: str
    status: Status
    bound: str = ""
    measured: str = ""
    cause: str = ""
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """Row of the Markdown table."""
        result = f"{self.status}: {self.cause}" if self.cause else self.status
        cells = (self.section, self.name, self.bound, self.measured, result)
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


@dataclass
class Report:
    """All rows of a run.

    Attributes:
        facts: device, versions and command.
        rows: rows in the order of measurement.
        seconds: duration of each section.
    """

    facts: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def count(self, status: Status) -> int:
        """Count the rows with a status."""
        return sum(row.status == status for row in self.rows)

    def add(self, row: Row) -> None:
        """Add a row, and print it."""
        self.rows.append(row)
        print(row.line, flush=True)

    @property
    def markdown(self) -> str:
        """The table, below the facts."""
        facts = [f"- {name}: {value}" for name, value in self.facts.items()]
        times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        counts = [f"{self.count(name)} {name}" for name in ("passed", "failed", "skipped", "measured")]
        head = ["| section | row | bound | measured | result |", "| --- | --- | --- | --- | --- |"]
        table = [*head, *(row.line for row in self.rows)]
        return "\n".join(
            [
                "# GPU report",
                "",
                *facts,
                f"- sections: {times}",
                f"- rows: {', '.join(counts)}",
                "",
                *table,
                "",
            ]
        )

    def write(self, folder: Path) -> None:
        """Write ``gpu.md`` and ``gpu.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.md").write_text(self.markdown, encoding="utf-8")
        rows = [asdict(row) | {"values": _finite(row.values)} for row in self.rows]
        contents = {"facts": self.facts, "seconds": self.seconds, "rows": rows}
        (folder / "gpu.json").write_text(json.dumps(contents, indent=1), encoding="utf-8")


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace NaN and infinity, which JSON does not have."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True)
class Rows:
    """Writer of one section's rows."""

    report: Report
    section: str

    def check(self, name: str, value: float, bound: float, unit: str = "") -> None:
        """Add a row that passes if ``value`` is at most ``bound``; NaN fails."""
        status: Status = "passed" if value <= bound else "failed"
        cause = "" if status == "passed" else "above the bound"
        texts = (f"≤ {bound:.3g}{unit}", f"{value:.3g}{unit}")
        self.report.add(
            Row(self.section, name, status, *texts, cause, {"value": float(value), "bound": float(bound)})
        )

    def measure(self, name: str, measured: str, bound: str = "", **values: float) -> None:
        """Add a row without a bound to pass."""
        self.report.add(Row(self.section, name, "measured", bound, measured, values=values))

    def skip(self, name: str, cause: str) -> None:
        """Add a row that was not measured."""
        self.report.add(Row(self.section, name, "skipped", cause=cause))

    def fail(self, name: str, cause: str) -> None:
        """Add a row that could not be measured."""
        self.report.add(Row(self.section, name, "failed", cause=cause))

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Turn an error into a failed row, and a missing package into a skipped one; free memory after it."""
        try:
            yield
        except ModuleNotFoundError as error:
            self.skip(name, f"{error.name} is not installed")
        except Exception as error:
            self.fail(name, reason(error))
        else:
            return
        release_memory()

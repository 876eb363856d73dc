"""Results of a search: table, list of all trials, and configuration of the best one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from promptstage.tuning.search import best_trial
from promptstage.tuning.study import Trial
from promptstage.utilities.errors import shown_path
from promptstage.utilities.files import write_bytes, write_text
from promptstage.utilities.json_text import dump_json
from promptstage.utilities.plurals import counted
from promptstage.utilities.yaml_values import dump_yaml

TRIALS, BEST, FIGURE = "trials.json", "best.yaml", "tuning.png"


@dataclass(frozen=True)
class Tuning:
    """Result of a search.

    Attributes:
        folder: folder with all files.
        trials: trials by number.
        best: the complete trial with the lowest validation loss; None before any is complete.
    """

    folder: Path
    trials: Sequence[Trial]

    @property
    def best(self) -> Trial | None:
        return best_trial(self.trials)

    @property
    def steps(self) -> int:
        """Optimizer steps of all trials together."""
        return sum(trial.steps for trial in self.trials)


def write_results(result: Tuning, title: str, best: dict[str, Any] | None) -> None:
    """Write ``trials.json``, ``tuning.png`` and, with a complete trial, ``best.yaml``.

    Args:
        title: method and data set, for the figure.
        best: configuration of the best trial.
    """
    from promptstage.callbacks.figures import png
    from promptstage.tuning.figure import curves

    values = {
        "selected_by": "val/loss",
        "best": None if result.best is None else result.best.number,
        "steps": result.steps,
        "trials": [_entry(trial) for trial in result.trials],
    }
    write_text(result.folder / TRIALS, dump_json(values, indent=2) + "\n")
    if any(trial.curve for trial in result.trials):
        write_bytes(result.folder / FIGURE, png(curves(result.trials, title)))
    if best is not None:
        write_text(result.folder / BEST, dump_yaml(best))


def _entry(trial: Trial) -> dict[str, Any]:
    loss = trial.loss()
    return {
        "number": trial.number,
        **trial.values.parameters(),
        "state": trial.state,
        "steps": trial.steps,
        "validation_loss": None if math.isinf(loss) else loss,
        "curve": [[step, value] for step, value in trial.curve.items()],
        **({"reason": trial.reason} if trial.reason else {}),
    }


def print_results(result: Tuning, console: Console) -> None:
    """Print the table of all trials, best first, and where the results are."""
    table = Table(title="lowest validation loss of each trial")
    names = list(dict.fromkeys(name for trial in result.trials for name in trial.values.parameters()))
    for name in ("trial", *names, "steps", "validation loss", ""):
        table.add_column(name, justify="left" if name in ("init", "") else "right")
    best = result.best
    order = {"complete": 0, "stopped": 1, "running": 2, "failed": 3}
    for trial in sorted(result.trials, key=lambda trial: (order[trial.state], -trial.steps, trial.loss())):
        values = trial.values.parameters()
        loss = trial.loss()
        table.add_row(
            str(trial.number),
            *(f"{values[name]:.3g}" if name == "lr" else str(values[name]) for name in names),
            str(trial.steps),
            "–" if math.isinf(loss) else f"{loss:.4f}",
            "best" if trial == best else _shown_state(trial),
        )
    console.print(table)
    folder = shown_path(result.folder)
    steps = counted(result.steps, "step")
    print(f"{steps} in total; trials and curves are in {folder}/{TRIALS} and {FIGURE}")
    if best is not None:
        print(
            f"best: trial {best.number}, {describe(best)}, validation loss {best.loss():.4f}; "
            f"next: promptstage fit -c {folder}/{BEST}"
        )


def _shown_state(trial: Trial) -> str:
    """Return the state of a trial for the table."""
    if trial.state == "running":
        return "interrupted" if trial.steps else "not started"
    return "diverged" if trial.state == "failed" else trial.state


def describe(trial: Trial) -> str:
    """Return a trial's values as text."""
    return ", ".join(
        f"{name} {value:.3g}" if name == "lr" else f"{name} {value}"
        for name, value in trial.values.parameters().items()
    )

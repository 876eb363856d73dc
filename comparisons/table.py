"""Table of a comparison, and figure of its accuracies."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from promptstage.comparisons.pairs import Pair
from promptstage.comparisons.results import Evaluation, Row, Summary
from promptstage.grading.grades import coverage
from promptstage.lightning_modules.functional.paired import difference_interval, paired_p
from promptstage.lightning_modules.functional.statistics import (
    Interval,
    accuracy_interval,
    seeds_interval,
    wilson_interval,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    *("row", "stages", "trained parameters", "selected by", "validation loss", "validation accuracy"),
    *("test accuracy", "95 % interval", "correct"),
    *("against", "difference", "95 % interval of it", "fixed / broken", "exact p"),
    *("difference in validation loss", "fit", "test"),
)
NONE = "–"
SIGNIFICANT = 0.05
FigureKind = Literal["bars", "lines"]


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return the lines of the table, with the columns in COLUMNS: runs, and means of rows over seeds.

    Raises:
        UserError: if results cannot be read.
    """
    lines = []
    for row in rows:
        reference = next((other for other in rows if other.name == row.against), None)
        lines += [_run_cells(row, seed, run, reference) for seed, run in row.runs.items()]
        if len(row.runs) > 1:
            lines.append(_mean_cells(row, reference))
    return lines


def pairs(rows: Sequence[Row]) -> list[Pair]:
    """Return each row with its reference, if any, on their common questions and seeds."""
    by_name = {row.name: row for row in rows}
    candidates = [Pair.of(by_name[row.against], row) for row in rows if row.against in by_name]
    return [pair for pair in candidates if pair is not None]


def conclusion(compared: Sequence[Pair]) -> str:
    """Return a sentence for each reference on the rows that differ from it significantly (p < 0.05)."""
    sentences = []
    for reference in dict.fromkeys(pair.before.name for pair in compared):
        own = [pair for pair in compared if pair.before.name == reference]
        better: list[str] = []
        worse: list[str] = []
        for pair in own:
            before, after = pair.grades
            if paired_p(before, after) < SIGNIFICANT:
                (better if after.mean() > before.mean() else worse).append(pair.after.name)
        parts = [
            f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {how}"
            for names, how in ((better, "better"), (worse, "worse"))
            if names
        ]
        same = len(own) - len(better) - len(worse)
        if same:
            parts.append(f"{same} {'row does' if same == 1 else 'rows do'} not differ significantly")
        sentences.append(f"Compared with {reference} (paired, p < {SIGNIFICANT}): {'; '.join(parts)}.")
    return " ".join(sentences)


def _run_cells(row: Row, seed: int | None, run: Evaluation, reference: Row | None) -> list[str]:
    summary = run.summary
    assert len(run.answers) == summary.examples  # also reads and checks the records
    low, high = wilson_interval(summary.correct, summary.examples)
    seconds = (run.seconds.get(part) for part in ("fit", "test"))
    return [
        row.run_name(seed),
        run.stages,
        f"{summary.trained_parameters:,}",
        *_validation_cells(row, [seed]),
        f"{summary.correct / summary.examples:.3f}",
        f"{low:.3f} – {high:.3f}",
        _counts([summary]),
        *_paired_cells(row, reference, [seed]),
        *(NONE if value is None else f"{value:.0f} s" for value in seconds),
    ]


def _mean_cells(row: Row, reference: Row | None) -> list[str]:
    summaries = [run.summary for run in row.runs.values()]
    mean, interval = accuracy_of(row)
    return [
        f"{row.name}, mean of {len(summaries)} seeds",
        *(NONE, NONE, *_validation_cells(row, list(row.runs))),
        *(f"{mean:.3f}", f"{interval.low:.3f} – {interval.high:.3f}"),
        _counts(summaries),
        *_paired_cells(row, reference, list(row.runs)),
        *(NONE, NONE),
    ]


def _validation_cells(row: Row, seeds: Sequence[int | None]) -> list[str]:
    """Return what selected the checkpoints, and the results of the validations that did."""
    selected = {row.runs[seed].summary.selected_by for seed in seeds}
    return [
        ", ".join(sorted(filter(None, selected))) or NONE,
        _mean_text(row.validation("validation_loss", seeds), ".4f"),
        _mean_text(row.validation("validation_accuracy", seeds), ".3f"),
    ]


def _mean_text(values: NDArray[np.float64], form: str) -> str:
    """Format the mean of a value of each seed, with its 95 % interval over several seeds."""
    if not len(values) or np.isnan(values).any():
        return NONE
    mean = f"{values.mean():{form}}"
    if len(values) == 1:
        return mean
    low, high = seeds_interval(values)
    return f"{mean} ({low:{form}} – {high:{form}})"


def _counts(summaries: Sequence[Summary]) -> str:
    """Return correct answers / examples; for partial tests also the number of questions."""
    examples = sum(summary.examples for summary in summaries)
    part = coverage(examples, sum(summary.questions for summary in summaries))
    return f"{sum(summary.correct for summary in summaries)} / {examples}" + (f" ({part})" if part else "")


def _paired_cells(row: Row, reference: Row | None, seeds: Sequence[int | None]) -> list[str]:
    if reference is None:
        return [NONE] * 6
    pair = Pair.of(reference, row, seeds)
    if pair is None:
        return [f"{reference.name} (other questions)", *[NONE] * 5]
    before, after = pair.grades
    sizes = {len(row.runs[seed].answers) for row in (reference, row) for seed in pair.seeds}
    common = "" if sizes == {len(pair.ids)} else f" ({len(pair.ids)} common questions)"
    fixed, broken = int((after & ~before).sum()), int((before & ~after).sum())
    low, high = difference_interval(before, after)
    return [
        f"{reference.name}{common}",
        f"{after.mean() - before.mean():+.3f}",
        f"{low:+.3f} – {high:+.3f}",
        f"{fixed} / {broken}",
        f"{paired_p(before, after):.2g}",
        _mean_text(pair.loss_differences, "+.4f"),
    ]


def accuracy_of(row: Row) -> tuple[float, Interval]:
    """Compute a row's mean accuracy over its seeds, with a 95 % interval over seeds and questions."""
    seeds = list(row.runs)
    answers = [run.answers for run in row.runs.values()]
    ids = [name for name in answers[0] if all(name in other for other in answers)]
    grades = row.grades(ids, seeds)
    return float(grades.mean()), accuracy_interval(grades)


def markdown(title: str, lines: Sequence[Sequence[str]]) -> str:
    """Format the table as Markdown."""
    # A bar between stages would start a new column.
    rows = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    table = [f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    return "\n".join([title, "", *table, ""])


def accuracy_figure(title: str, rows: Sequence[Row], kind: FigureKind) -> "Figure":
    """Draw each row's accuracy with its 95 % interval; groups of rows share labels and have a color each."""
    from matplotlib.figure import Figure

    from promptstage.callbacks.figures import plain, stage_color

    groups = list(dict.fromkeys(row.group for row in rows))
    labels = list(dict.fromkeys(row.label for row in rows))
    figure = Figure(figsize=(max(6.4, 0.55 * len(labels) * max(1, len(groups) / 2)), 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(groups)
    for number, group in enumerate(groups):
        own = [row for row in rows if row.group == group]
        accuracies = [accuracy_of(row) for row in own]
        heights = np.array([100 * mean for mean, _ in accuracies])
        reach = 100 * np.array([[mean - low, high - mean] for mean, (low, high) in accuracies]).T.clip(0)
        places = np.array([float(labels.index(row.label)) for row in own])
        color = stage_color(number)
        name = plain(group) or None
        if kind == "bars":
            places = places + (number - (len(groups) - 1) / 2) * width
            axes.bar(places, heights, width, yerr=reach, color=color, capsize=2, label=name)
        else:
            axes.errorbar(places, heights, yerr=reach, color=color, marker="o", capsize=2, label=name)
    long = max(map(len, labels)) * len(labels) > 80
    axes.set_xticks(range(len(labels)), [plain(label) for label in labels], rotation=45 if long else 0)
    axes.set_ylabel("test accuracy in %, 95 % interval")
    axes.set_title(plain(title), fontsize=10)
    if len(groups) > 1:
        axes.legend(frameon=False)
    return figure

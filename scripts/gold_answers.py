"""Check the grader on gold answers: ``python -m scripts.gold_answers FOLDER``.

FOLDER holds one folder per data set (gsm8k, math, …) with the fields of the hub; the check takes two to four
minutes. Each worked answer is graded against its own reference and against the reference of another row,
sampled without replacement. If the latter is accepted, both references are printed, since they may be equal.
The exit code is 1 if a worked answer is rejected for its own reference.
"""

import argparse
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from promptstage.datamodules import ARC, GSM8K, MATH, AQuA, ProntoQA, WorldTree
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.datamodules.encoding import Example
from promptstage.grading import grade, reference_problem
from promptstage.utilities.errors import UserError, printable

SPLITS: list[tuple[type[ReasoningDataModule], str, dict[str, Any], tuple[str, ...]]] = [
    (GSM8K, "gsm8k", {}, ("train", "test")),
    (MATH, "math", {}, ("train", "test")),
    (MATH, "math", {"subset": "math500"}, ("test",)),
    (AQuA, "aqua_rat", {}, ("train", "validation", "test")),
    (ARC, "arc_challenge", {}, ("train", "validation", "test")),
    (ProntoQA, "prontoqa", {}, ("train", "test")),
    (WorldTree, "worldtree", {}, ("train", "validation", "test")),
]


class Check(NamedTuple):
    """Result of checking one split.

    Attributes:
        name: data set and split.
        rows: number of rows.
        rejected: ids of rows whose worked answer is rejected for their own reference.
        shuffled: number of rows graded against a different reference of another row.
        accepted: own and other reference of each row that was accepted for the other.
    """

    name: str
    rows: int
    rejected: list[str]
    shuffled: int
    accepted: list[tuple[str, str]]


def check(name: str, dataset: str, examples: Iterable[Example]) -> Check:
    """Grade the worked answers of one split."""
    rows = list(examples)
    rejected = [row.id for row in rows if not grade(dataset, row.completion, row.answer, row.options).correct]
    others = random.Random(0).sample(rows, len(rows))
    pairs = [(row, other) for row, other in zip(rows, others, strict=True) if row.answer != other.answer]
    accepted = [
        (row.answer, other.answer)
        for row, other in tqdm(pairs, name, disable=None, leave=False)
        # The label of an option that only the other row has cannot be graded.
        if not reference_problem(dataset, other.answer, row.options)
        and grade(dataset, row.completion, other.answer, row.options).correct
    ]
    return Check(name, len(rows), rejected, len(pairs), accepted)


def checks(folder: Path) -> Iterator[Check]:
    """Check every row of every split below ``folder``, as read by the data modules."""
    for kind, name, options, splits in SPLITS:
        data = kind(source=str(folder / name), **options)
        for split in splits:
            rows = [data.parse(row.fields, split, i) for i, row in enumerate(data.rows(split))]
            yield check(f"{name}/{options.get('subset', split)}", data.name, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(dict.fromkeys(name for _, name, _, _ in SPLITS))
    parser.add_argument("folder", type=Path, help=f"folder that holds {names}")
    folder = parser.parse_args().folder
    try:
        return report(checks(folder))
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2


def report(results: Iterable[Check]) -> int:
    """Print the results of all splits; return 1 if a row was rejected for its own reference, else 0."""
    rows = rejected = shuffled = accepted = 0
    for result in results:
        print(
            f"{result.name:24} {result.rows:6} rows, {len(result.rejected)} rejected for their own reference,"
            f" {len(result.accepted)} of {result.shuffled} accepted for another's"
        )
        for identity in result.rejected:
            print(f"    rejected: {identity}")
        for own, other in result.accepted:
            print(f"    equal?  {own}  =  {other}")
        rows, rejected = rows + result.rows, rejected + len(result.rejected)
        shuffled, accepted = shuffled + result.shuffled, accepted + len(result.accepted)
    print(
        f"{rows} rows, {rejected} rejected for their own reference, {accepted} of {shuffled} accepted for "
        "another's"
    )
    return 1 if rejected else 0


if __name__ == "__main__":
    sys.exit(main())

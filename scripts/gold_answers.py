"""python -m scripts.gold_answers FOLDER: does the grader accept every gold answer, and no other row's?

FOLDER holds one folder a data set (gsm8k, math, …), in the hub's fields; all take two to four minutes.
Each worked answer is graded against its own reference, and against that of another row, drawn without
replacement; where the latter is accepted, the two references are printed, since they may be equal. The exit
code is 1 when a row is not accepted as its own.
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
from promptstage.datamodules.grading import grade
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
    """What became of one split.

    Attributes:
        refused: ids of rows whose worked answer is not accepted as their own.
        shuffled: rows graded against another row's different reference.
        accepted: own and other reference, where that was accepted.
    """

    name: str
    rows: int
    refused: list[str]
    shuffled: int
    accepted: list[tuple[str, str]]


def check(name: str, dataset: str, examples: Iterable[Example]) -> Check:
    """Grade the worked answers of one split."""
    rows = list(examples)
    refused = [row.id for row in rows if not grade(dataset, row.completion, row.answer, row.options).correct]
    others = random.Random(0).sample(rows, len(rows))
    pairs = [(row, other) for row, other in zip(rows, others, strict=True) if row.answer != other.answer]
    accepted = [
        (row.answer, other.answer)
        for row, other in tqdm(pairs, name, disable=None, leave=False)
        if grade(dataset, row.completion, other.answer, row.options).correct
    ]
    return Check(name, len(rows), refused, len(pairs), accepted)


def checks(folder: Path) -> Iterator[Check]:
    """Every row of every split below ``folder``, as the data modules read it."""
    for kind, name, options, splits in SPLITS:
        data = kind(source=str(folder / name), **options)
        for split in splits:
            rows = [data.parse(row.fields, split, i) for i, row in enumerate(data.rows(split))]
            yield check(f"{name}/{options.get('subset', split)}", data.name, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(dict.fromkeys(name for _, name, _, _ in SPLITS))
    parser.add_argument("folder", type=Path, help=f"holds the folders {names}")
    folder = parser.parse_args().folder
    try:
        return report(checks(folder))
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2


def report(results: Iterable[Check]) -> int:
    """Print what became of each split; 1 when a row was not accepted as its own, else 0."""
    rows = refused = shuffled = accepted = 0
    for result in results:
        print(
            f"{result.name:24} {result.rows:6} rows, {len(result.refused)} not accepted as their own; "
            f"{len(result.accepted)} of {result.shuffled} accepted as another row's"
        )
        for identity in result.refused:
            print(f"    not accepted: {identity}")
        for own, other in result.accepted:
            print(f"    equal?  {own}  =  {other}")
        rows, refused = rows + result.rows, refused + len(result.refused)
        shuffled, accepted = shuffled + result.shuffled, accepted + len(result.accepted)
    print(f"{rows} rows, {refused} not accepted as their own; {accepted} of {shuffled} as another row's")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())

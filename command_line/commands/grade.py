"""``grade``: grade the records of an earlier run again, without generating."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.one_line_parser import OneLineParser
from promptstage.composition.records import find_records, read_gradable, total_questions
from promptstage.grading import Grade, grade, harness_verdicts
from promptstage.grading.data_sets import DATA_SETS, default_options
from promptstage.grading.functions import is_function_name
from promptstage.grading.grades import LABEL_WORD, coverage
from promptstage.grading.kinds import find_kind
from promptstage.lightning_modules.functional.statistics import wilson_interval
from promptstage.utilities.errors import UserError, choose, printable
from promptstage.utilities.files import write_text
from promptstage.utilities.json_text import dump_json

LISTED = ("became correct", "became wrong", "changed prediction only")
UNLISTED = "changed reason only"
MOST = 20  # changes that are listed
SHOWN = 120  # characters of a text from the file
SECONDS = 1  # before a bar appears
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{rate_fmt}, ends {eta:%H:%M:%S}]"


class Regraded(NamedTuple):
    """Record as it was read, and its new grade."""

    record: dict[str, Any]
    grade: Grade

    @property
    def change(self) -> str | None:
        """One of ``LISTED``, ``UNLISTED``, or None."""
        old, new = self.record, self.grade
        if new.correct != old["correct"]:
            return LISTED[0] if new.correct else LISTED[1]
        if new.prediction != old["prediction"]:
            return LISTED[2]
        return None if new.reason == old["reason"] else UNLISTED


class GradeRecords(DirectCommand):
    """Grade the records of an earlier run again."""

    def main(self, name: str, options: list[str]) -> int:
        return regrade(options)


COMMAND = GradeRecords()


def regrade(args: Sequence[str]) -> int:
    """Grade a file of records again, and print each change and its reason; return exit code 0.

    Raises:
        UserError: for a mistake of the user.
    """
    options = _parse(args)
    _check_rules(options.dataset, options.kind)
    source = find_records(options.path)
    output = None if options.output is None else _writable(options.output)
    own = options.dataset is None and options.kind is None
    regraded = _grade_all(read_gradable(source, options.dataset, options.kind), own)
    if output is not None:
        write_text(output, "".join(map(_line, regraded)))
    lines = [*_changes(regraded), *_summary(regraded, source)]
    if output is not None:
        lines.append(f"written to {printable(str(output))}")
    print("\n".join(lines))
    return 0


def _check_rules(dataset: str | None, kind: str | None) -> None:
    """Check the data set or kind that was typed; a function is imported, from the current folder, too."""
    if dataset is not None:
        choose("data set", dataset, DATA_SETS)
    if kind is not None:
        if is_function_name(kind):
            sys.path.append(os.getcwd())  # last, for the user's function
        find_kind(kind)


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(
        "grade",
        "Grade the records of an earlier run again, without generating, and print what changed.",
        "The file is not modified. For records without the field 'dataset', it is taken from their id.",
    )
    parser.add_argument(
        "path", metavar="PATH", nargs="?", help="results.jsonl, its folder, or a run folder (newest test)"
    )
    parser.add_argument("--dataset", metavar="NAME", help="grade all records by the rules of this data set")
    parser.add_argument(
        "--kind",
        metavar="KIND",
        help="grade all records as this kind of answer: number, choice, text, formula, regex:PATTERN or a "
        "function, package.module.function",
    )
    parser.add_argument("--output", metavar="FILE", help="new file for the records with their new grades")
    options = parser.parse(list(args))
    if options.path is None:
        raise UserError("grade needs a path: results.jsonl, its folder, or a run folder")
    if options.dataset is not None and options.kind is not None:
        raise UserError(
            "--dataset and --kind cannot be combined: --kind alone determines how answers are graded"
        )
    return options


def _writable(output: str) -> Path:
    path = Path(output)
    # A dangling link, too: it would be replaced.
    if os.path.lexists(path):
        raise UserError(f"output file {output} exists: name a new one")
    if not os.path.isdir(path.parent) or not os.access(path.parent, os.W_OK):
        raise UserError(f"output file {output} cannot be written: no folder that can be written to")
    return path


def _grade_all(records: Sequence[dict[str, Any]], own: bool) -> list[Regraded]:
    """Grade all records again.

    Args:
        own: by the rules of each record, which ``--dataset`` and ``--kind`` replace.
    """
    from tqdm import tqdm

    bar = tqdm(
        records,
        desc="grading",
        unit=" examples",
        bar_format=BAR,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        delay=SECONDS,
        leave=False,
        dynamic_ncols=True,
        miniters=1,  # some take seconds
        smoothing=0,
    )
    return [Regraded(record, (_label_word(record) if own else None) or _grade(record)) for record in bar]


def _label_word(record: dict[str, Any]) -> Grade | None:
    """Grade a predicted label word, which is the whole answer; None for a generated text."""
    word = record["prediction"]
    if record["reason"] != LABEL_WORD or word != record["generation"]:
        return None
    return Grade(word, word == record["reference"], LABEL_WORD)


def _grade(record: dict[str, Any]) -> Grade:
    options = record["options"] or default_options(record["dataset"])
    try:
        return grade(record["kind"], record["generation"], record["reference"], options)
    except UserError as error:
        raise UserError(f"grading of record {printable(record['id'][:SHOWN])}: {error}") from error


def _line(item: Regraded) -> str:
    record = item.record
    verdicts = harness_verdicts(record["kind"], record["generation"], record["reference"])
    text = dump_json(record | asdict(item.grade) | verdicts._asdict()) + "\n"
    # Half a surrogate pair, which JSON allows, has no UTF-8: write it as JSON's escape.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _changes(regraded: Sequence[Regraded]) -> list[str]:
    """Format each of the first listed changes as four lines and an empty one."""
    lines = []
    changed = [item for item in regraded if item.change in LISTED]
    for item in changed[:MOST]:
        old, new = item.record, item.grade
        lines += [
            f"{printable(old['id'][:SHOWN])} {item.change} (reference {_quoted(old['reference'])})",
            f"  before: {_verdict(old['correct'], old['prediction'], old['reason'])}",
            f"  after:  {_verdict(new.correct, new.prediction, new.reason)}",
            f"  text:   {_tail(old['generation'])}",
            "",
        ]
    if len(changed) > MOST:
        lines += [f"and {len(changed) - MOST} more changes (--output FILE writes all records)", ""]
    return lines


def _verdict(correct: bool, prediction: str | None, reason: str) -> str:
    shown = "no prediction" if prediction is None else _quoted(prediction)
    return f"{'correct' if correct else 'wrong'}, {shown} ({printable(reason[:SHOWN])})"


def _summary(regraded: Sequence[Regraded], source: Path) -> list[str]:
    before = sum(item.record["correct"] for item in regraded)
    after = sum(item.grade.correct for item in regraded)
    counts = Counter(item.change for item in regraded)
    counted = coverage(len(regraded), total_questions(source)) or str(len(regraded))
    if ".partial" in source.name:
        counted += ", of an interrupted evaluation"
    lines = [f"records in {printable(str(source))}: {counted}"]
    for name, correct in (("before:", before), ("after: ", after)):
        low, high = wilson_interval(correct, len(regraded))
        accuracy = f"{correct / len(regraded):.3f} (95 % interval {low:.3f} to {high:.3f})"
        lines.append(f"accuracy {name} {accuracy}, {correct} correct")
    blind = sum(item.record["kind"] == "choice" and not item.record["options"] for item in regraded)
    if blind:
        lines.append(
            f"note: {blind} multiple-choice records have no 'options': only letters can be read in them"
        )
    if counts[None] == len(regraded):
        return [*lines, "nothing changed"]
    return [*lines, ", ".join(f"{counts[change]} {change}" for change in (*LISTED, UNLISTED))]


def _quoted(text: str) -> str:
    # repr() escapes what printable() does, and quotes.
    return repr(text[:SHOWN]) + ("..." if len(text) > SHOWN else "")


def _tail(text: str) -> str:
    return ("..." if len(text) > SHOWN else "") + repr(text[-SHOWN:])

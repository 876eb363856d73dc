"""``compare``: several runs in one table.

Each row of FILE.yaml is a fit and a test, which are printed as a user would type them. With --resume,
results that --run-dir already has are kept. Commands run in this process on one device, else in
subprocesses. A row with --model=Pretrained is only tested, and uses only the flags of data and backbone. A
row 'of' another row tests that row's prompt again, for example with DPC. configs/experiment/demo.yaml is an
example; docs/how_to/comparisons.md documents the keys.

Finished runs are run folders, test folders, or comparison folders, each with an optional NAME.

--against ROW adds to every other row the difference in accuracy with its 95 % confidence interval, the
answers fixed and broken, and the exact p of McNemar's test; pairs.jsonl lists those answers.
"""

import os
from pathlib import Path
from typing import get_args

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.one_line_parser import OneLineParser

USAGE = """\
  promptstage compare FILE.yaml
  promptstage compare PT=runs/pt DHAM=runs/dham --against PT

"""


class Compare(DirectCommand):
    """Run a comparison of methods, or compare finished runs."""

    def main(self, name: str, options: list[str]) -> int:
        from rich.console import Console

        from promptstage.comparisons.compare import compare_finished, run_comparison
        from promptstage.comparisons.table import FigureKind

        at = options.index("--") if "--" in options else len(options)
        extra = options[at + 1 :]
        parser = OneLineParser(
            name,
            USAGE + (__doc__ or "").partition("\n\n")[2],
            "Flags after -- are added to every fit and override FILE's; hardware flags "
            "(--trainer.accelerator,\ndevices, num_nodes, strategy, precision) are added to every test, too.",
        )
        parser.add_argument(
            "targets", nargs="+", metavar="FILE.yaml | [NAME=]FOLDER", help="a comparison, or finished runs"
        )
        parser.add_argument("--run-dir", type=Path, help="output folder; default for FILE.yaml: runs/FILE")
        parser.add_argument("--rows", help="comma-separated names of the rows to run; default: all")
        parser.add_argument(
            "--source",
            action="append",
            default=[],
            metavar="DATASET=FOLDER",
            help="folder of a data set, for the rows that use it, as in prontoqa=FOLDER; may be repeated",
        )
        parser.add_argument(
            "--resume", action="store_true", help="keep the results in --run-dir and run the missing ones"
        )
        parser.add_argument(
            "--verbose", action="store_true", help="print the output of each command instead of log.txt"
        )
        parser.add_argument(
            "--against", metavar="ROW", help="compare every other row with ROW, question by question"
        )
        parser.add_argument(
            "--figure", choices=get_args(FigureKind), help="draw the accuracies as accuracy.png"
        )
        parsed = parser.parse(options[:at])
        console = Console(width=None if Console().is_terminal else 200)
        if any(os.path.isdir(target.partition("=")[2] or target) for target in parsed.targets):
            return compare_finished(parsed, extra, console)
        return run_comparison(parsed, extra, console)


COMMAND = Compare()

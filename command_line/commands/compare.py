"""``compare``: several runs in one table.

Each row of FILE.yaml is a fit and a test; log.txt has their command lines. With --resume, results in
--run-dir are reused, and several such commands with the same --run-dir share the rows. A row with
--model=Pretrained is only tested, and uses only the flags of data and backbone. A row with 'of' tests the
prompt of another row again, for example with DPC. See configs/experiment/demo.yaml for an example, and
docs/how_to/comparisons.md for the keys.

Finished runs are run folders, test folders or comparison folders, each with an optional NAME.

--against ROW adds to every other row the difference in accuracy with its 95 % confidence interval, the number
of answers fixed and broken, and the exact p-value of McNemar's test; pairs.jsonl lists these answers.
"""

import os
from pathlib import Path
from typing import get_args

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.one_line_parser import OneLineParser
from promptstage.utilities.errors import UserError

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
            "Flags after -- are added to every fit and override those in FILE.yaml; hardware flags\n"
            "(--trainer.accelerator, devices, num_nodes, strategy, precision) are added to every test, too.",
        )
        parser.add_argument(
            "targets", nargs="+", metavar="FILE.yaml | [NAME=]FOLDER", help="comparison, or finished runs"
        )
        parser.add_argument("--run-dir", type=Path, help="output folder; default for FILE.yaml: runs/FILE")
        parser.add_argument(
            "--rows",
            action="append",
            metavar="ROW,...",
            help="names of the rows to run, separated by commas; may be repeated; default: all",
        )
        parser.add_argument(
            "--source",
            action="append",
            default=[],
            metavar="DATASET=FOLDER",
            help="folder of a data set in the rows, as in prontoqa=FOLDER; may be repeated",
        )
        parser.add_argument(
            "--resume", action="store_true", help="reuse the results in --run-dir and run the missing ones"
        )
        parser.add_argument(
            "--array",
            type=int,
            metavar="N",
            help="print a SLURM script that runs the rows in a job array of N tasks, and run nothing",
        )
        parser.add_argument(
            "--verbose",
            action="store_true",
            help="print the output of commands instead of writing log.txt",
        )
        parser.add_argument(
            "--against", metavar="ROW", help="compare every other row with ROW, question by question"
        )
        parser.add_argument(
            "--figure", choices=get_args(FigureKind), help="draw the accuracies in accuracy.png"
        )
        parsed = parser.parse(options[:at])
        console = Console(width=None if Console().is_terminal else 200)
        for target in parsed.targets:
            folder = target.partition("=")[2] or target
            if not os.path.exists(folder) and not folder.endswith((".yaml", ".yml")):
                raise UserError(f"folder {folder} does not exist")
        if any(os.path.isdir(target.partition("=")[2] or target) for target in parsed.targets):
            return compare_finished(parsed, extra, console)
        return run_comparison(parsed, extra, console)


COMMAND = Compare()

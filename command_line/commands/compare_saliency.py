"""``compare-saliency``: the saliency of several runs on common scales.

  promptstage compare-saliency --out FOLDER "bare=runs/bare/validate" "layer 0=runs/pt/validate"

Each folder holds the output of SaliencyDiagnostics. By default curves are drawn for the examples that are
correct in all runs, as in Figure 1 of DHAM ('Unlocking coherent reasoning in LLMs with hierarchical soft
prompts', under review), so that correctness does not confound their shape. Gaps between correct and incorrect
examples are drawn for all shared examples.
"""

from pathlib import Path

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.one_line_parser import OneLineParser


class CompareSaliency(DirectCommand):
    """Draw the saliency of several runs, and print a table of curve shapes."""

    def main(self, name: str, options: list[str]) -> int:
        from promptstage.comparisons.saliency import compare_saliency

        parser = OneLineParser(name, (__doc__ or "").partition("\n\n")[2])
        parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER", help="results of a run, with its name")
        parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
        parser.add_argument(
            "--examples",
            default="correct",
            help="examples to compare: correct (default; correct in all runs, or shared if a run has no "
            "grades), shared (in all runs) or all (of each run)",
        )
        parser.add_argument("--stem", default="saliency", help="prefix of the input file names")
        parsed = parser.parse(options)
        compare_saliency(parsed.runs, parsed.out, parsed.examples, parsed.stem)
        return 0


COMMAND = CompareSaliency()

"""``footprint``: the memory and network traffic that a backbone and a prompt need.

  promptstage footprint                                    # Llama 3 8B, Llama 2 13B, Llama 3 70B
  promptstage footprint --backbone models/smollm2 --batch-size 16

The numbers are computed from the model's shape, not measured; docs/scaling.md defines each of them. Sizes are
in GiB and MiB.
"""

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.one_line_parser import OneLineParser
from promptstage.utilities.checks import check_minimum

NUMBERS = {
    "--ranks": (8, "number of ranks"),
    "--batch-size": (8, "training examples in a rank's micro-batch"),
    "--length": (256, "tokens of a training example, all with a label"),
    "--virtual-tokens": (100, "virtual tokens of the prompt"),
    "--eval-batch-size": (16, "questions in an evaluation batch"),
    "--question": (128, "tokens of a question"),
    "--new-tokens": (400, "tokens generated for a question"),
}


class Footprint(DirectCommand):
    """Print tables of memory and network traffic."""

    def main(self, name: str, options: list[str]) -> int:
        from promptstage.command_line.footprint import SIZES, print_footprint
        from promptstage.lightning_modules.functional.footprint import SHAPES

        parser = OneLineParser(name, (__doc__ or "").partition("\n\n")[2])
        names = ", ".join(SHAPES)
        parser.add_argument(
            "--backbone",
            nargs="+",
            help=f"names ({names}), hub ids, folders or GGUF files; default: these three",
        )
        parser.add_argument(
            "--dtype", choices=SIZES, default="bfloat16", help="dtype of weights and arithmetic"
        )
        for flag, (default, text) in NUMBERS.items():
            parser.add_argument(flag, type=int, default=default, help=f"{text}; default: {default}")
        parsed = parser.parse(options)
        check_minimum({flag: getattr(parsed, flag[2:].replace("-", "_")) for flag in NUMBERS}, 1)
        print_footprint(parsed)
        return 0


COMMAND = Footprint()

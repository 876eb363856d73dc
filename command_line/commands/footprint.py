"""``footprint``: the memory and network traffic that a backbone and a prompt need, and the plan of a study.

  promptstage footprint                                    # Llama 3 8B, Llama 2 13B, Llama 3 70B
  promptstage footprint --backbone models/smollm2 --batch-size 16
  promptstage footprint --backbone Llama-3-8B --study FILE.yaml --gpus 8 --hours 4     # plan of a study

The numbers are computed from the model's shape, not measured; docs/scaling.md defines each of them. Sizes are
in GiB and MiB.

With --study FILE.yaml, a comparison as 'promptstage compare' reads it, or --rows N, it prints a plan instead:
operations, memory per GPU and hours of each row, which rows run at the same time on which GPUs, and whether
they end within --hours. Options of the rows override those below. The defaults are an H100 SXM's.
"""

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.one_line_parser import OneLineParser
from promptstage.utilities.checks import check_maximum, check_minimum, check_positive
from promptstage.utilities.errors import UserError

NUMBERS = {
    "--ranks": (8, "number of ranks"),
    "--batch-size": (8, "training examples in a rank's micro-batch"),
    "--length": (256, "tokens of a training example, all with a label"),
    "--virtual-tokens": (100, "virtual tokens of the prompt"),
    "--eval-batch-size": (16, "questions in an evaluation batch"),
    "--question": (128, "tokens of a question"),
    "--new-tokens": (400, "tokens generated for a question"),
}
HARDWARE = {
    "--peak": (989.0, "peak of a GPU in TFLOP/s"),
    "--bandwidth": (3350.0, "bandwidth of its memory in GB/s"),
    "--gpu-memory": (80.0, "its memory in GiB"),
    "--interconnect": (450.0, "GB/s that it receives from other GPUs, for sharded backbones"),
    "--utilization": (0.3, "share of peak and bandwidths that is reached"),
}
SIZES_OF_STUDY = {
    "--steps": "optimizer steps of rows that do not limit them",
    "--train-examples": "training examples, for rows that limit epochs; default: known data sets'",
    "--test-questions": "test questions; default: known data sets'",
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
        study = parser.add_argument_group("plan of a study")
        study.add_argument("--study", metavar="FILE.yaml", help="comparison whose rows are planned")
        study.add_argument("--rows", type=int, help="number of equal rows of prompt tuning, without a file")
        study.add_argument("--gpus", type=int, default=8, help="number of GPUs; default: 8")
        study.add_argument("--hours", type=float, help="hours that all rows should end in")
        for flag, (number, text) in HARDWARE.items():
            study.add_argument(flag, type=float, default=number, help=f"{text}; default: {number:g}")
        for flag, text in SIZES_OF_STUDY.items():
            study.add_argument(flag, type=int, help=text)
        parsed = parser.parse(options)
        values = {f"--{name.replace('_', '-')}": value for name, value in vars(parsed).items()}
        check_minimum({flag: values[flag] for flag in (*NUMBERS, *SIZES_OF_STUDY, "--gpus", "--rows")}, 1)
        check_positive({flag: values[flag] for flag in (*HARDWARE, "--hours")})
        check_maximum({"--utilization": parsed.utilization}, 1)
        if parsed.study is None and parsed.rows is None:
            print_footprint(parsed)
            return 0
        if parsed.study is not None and parsed.rows is not None:
            raise UserError("--study and --rows exclude each other")
        from promptstage.command_line.study_plan import print_study

        print_study(parsed)
        return 0


COMMAND = Footprint()

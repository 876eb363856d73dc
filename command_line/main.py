"""promptstage on the command line: ``python cli.py --help``.

Nothing heavy is imported here: the help and the version must answer at once.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from promptstage import __version__
from promptstage.command_line.processes import check_environment, tell
from promptstage.command_line.streams import close_output, open_streams
from promptstage.datamodules import __all__ as DATA_SETS
from promptstage.lightning_modules import __all__ as METHODS
from promptstage.utilities.errors import UserError, nearest, unusable_path

SUBCOMMANDS = {
    "fit": "train a soft prompt",
    "validate": "loss and accuracy on the validation split",
    "test": "answer and grade the test split",
    "predict": "answer questions from a file or standard input",
    "grade": "grade the records of an earlier run again",
    "partition": "find the backbone's stages, for looking",
    "saliency": "one question's information flow",
    "calibrate": "find the threshold of Dynamic Prompt Corruption",
}

HELP = """\
usage: python cli.py {{fit,validate,test,predict,grade,partition,saliency,calibrate}} [options]

promptstage trains soft prompts that make a frozen language model reason better.

subcommands:
  fit        train a soft prompt
  validate   loss and accuracy on the validation split
  test       answer and grade the test split
  predict    answer questions from a file or standard input (--questions FILE, - for standard input)
  grade      grade the records of an earlier run again, without generating, and say what changed
  partition  find the backbone's stages by CKA, as fit with DHAM does, and draw them; train nothing
  saliency   answer one question and show how information flowed to the answer (--question TEXT)
  calibrate  find, on the validation split, when Dynamic Prompt Corruption (DPC) should correct an answer

methods (--model):   {methods}
data sets (--data):  {data_sets}

common options:
  -c FILE            a YAML file; give several, later ones win, and options win over files (see configs/)
  --backbone.name    hub id, local folder or 'embedded' (default)
  --ckpt_path PATH   a checkpoint, or a run folder (its best checkpoint)
  --run_dir PATH     where the run is kept (default: runs/METHOD-DATASET)
  --help, --version

examples:
  python cli.py fit --model DHAM --data Generated --data.task addition --trainer.max_steps 300
  python cli.py test --ckpt_path runs/dham-addition
  python cli.py fit -c configs/model/dham.yaml -c configs/data/gsm8k.yaml -c configs/backbone/smollm2.yaml
  echo "347+58" | python cli.py predict --ckpt_path runs/dham-addition
  python cli.py grade runs/dham-addition
  python cli.py saliency --ckpt_path runs/dham-addition --question "347+58"
  python cli.py calibrate --ckpt_path runs/dham-addition
  python cli.py test --ckpt_path runs/dham-addition --trainer.callbacks callbacks.dpc.DPC
  python cli.py partition -c configs/data/gsm8k.yaml -c configs/backbone/smollm2.yaml

'python cli.py fit --help' lists the trainer's and the run's options, '--model.help DHAM' a method's,
'--data.help GSM8K' a data set's.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 for a user error, or 1 for a failed run."""
    arguments = list(sys.argv[1:] if args is None else args)
    readable = open_streams()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(methods=", ".join(METHODS), data_sets=", ".join(DATA_SETS)), end="")
        return 0
    if arguments[0] == "--version":
        print(f"promptstage {__version__}")
        return 0
    try:
        code = _run(arguments, readable)
        close_output()
        return code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        mistake = error if isinstance(error, UserError) else unusable_path(error)
        if mistake is None:
            raise
        if os.environ.get("PROMPTSTAGE_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        tell(mistake)
        return mistake.exit_code


def _run(arguments: list[str], readable: bool) -> int:
    check_environment()
    subcommand, *options = arguments
    if subcommand not in SUBCOMMANDS:
        raise UserError(f"subcommand '{subcommand}' is unknown: {nearest(subcommand, SUBCOMMANDS)}")
    if subcommand == "grade":
        from promptstage.command_line.regrade import regrade

        return regrade(options)
    if subcommand == "predict" and not readable and not any(o.startswith("--answers") for o in options):
        raise UserError("standard output is closed: give --answers FILE")
    from promptstage.command_line.run import run

    return run(arguments)

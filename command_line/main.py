"""Entry point of the command line, ``promptstage``.

It imports no heavy library, so that help and version are printed at once.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from promptstage import __version__
from promptstage.command_line.commands import COMMANDS, OTHER_NAMES, load_command
from promptstage.command_line.streams import close_output, open_streams
from promptstage.datamodules import __all__ as DATA_SETS
from promptstage.utilities.errors import UserError, nearest, unusable_path
from promptstage.utilities.processes import check_environment, report

HELP = """\
usage: promptstage SUBCOMMAND [options]        (in a checkout: python cli.py SUBCOMMAND [options])

promptstage trains soft prompts that make a frozen language model reason better.

subcommands:
{subcommands}

methods (--model):
  PromptTuning      one prompt at the input, or at a later layer (late prompt)
  PrefixTuning      keys and values in every layer
  DHAM              one prompt for each stage of layers (Dynamic Hierarchy-Aware Mechanism)
  HardPrompt        a text, found by gradients (PEZ, AutoPrompt_SGD, FluentPrompt)
  LoRA              low-rank updates of the weights
  FullFineTuning    all weights
  AnchorReweighting factors on the attention to label words, for in-context learning
  Pretrained        nothing: the baseline

data sets (--data):  {data_sets}

common options:
  -c FILE            a YAML file; later files override earlier ones, and options override files
  --backbone.name    hub id, local folder or 'embedded' (default)
  --ckpt_path PATH   a checkpoint, or a run folder (best checkpoint; for fit the last one)
  --run_dir PATH     folder of the run (default: runs/METHOD-DATASET)
  --help, --version

examples:
  promptstage fit --model DHAM --data Generated --data.task addition --trainer.max_steps 300
  promptstage test --ckpt_path runs/dham-addition
  promptstage fit -c configs/model/dham.yaml -c configs/data/gsm8k.yaml -c configs/backbone/smollm2.yaml
  echo "347+58" | promptstage predict --ckpt_path runs/dham-addition
  promptstage saliency --ckpt_path runs/dham-addition --question "347+58"
  promptstage words runs/dham-addition
  promptstage calibrate --ckpt_path runs/dham-addition
  promptstage test --ckpt_path runs/dham-addition --trainer.callbacks DPC
  promptstage serve runs/dham-addition
  promptstage compare configs/experiment/demo.yaml

'promptstage fit --help' lists the options of a subcommand, '--model.help DHAM' those of a method,
'--data.help GSM8K' those of a data set.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 for a user error, or 1 for a failed run."""
    arguments = list(sys.argv[1:] if args is None else args)
    open_streams()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0
    if arguments[0] == "--version":
        print(f"promptstage {__version__}")
        return 0
    try:
        code = _run(arguments)
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
        report(mistake)
        return mistake.exit_code


def _help() -> str:
    lines = [f"  {name:<17} {summary}" for name, summary in COMMANDS.items()]
    return HELP.format(subcommands="\n".join(lines), data_sets=", ".join(DATA_SETS))


def _run(arguments: list[str]) -> int:
    check_environment()
    name, *options = arguments
    if name not in COMMANDS:
        hint = f"did you mean '{OTHER_NAMES[name]}'?" if name in OTHER_NAMES else nearest(name, COMMANDS)
        raise UserError(f"subcommand '{name}' is unknown: {hint}")
    from promptstage.command_line.commands.base import DirectCommand, TrainerCommand

    command = load_command(name)
    if isinstance(command, DirectCommand):
        return command.main(name, options)
    assert isinstance(command, TrainerCommand)
    from promptstage.command_line.run import run

    return run(command, name, options)

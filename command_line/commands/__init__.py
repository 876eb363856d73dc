"""Subcommands by name; each is a module of the same name in this package, imported when it is used."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptstage.command_line.commands.base import Command

COMMANDS = {
    "fit": "train a soft prompt",
    "tune": "search for the learning rate with the lowest validation loss, in short fits",
    "validate": "compute loss and accuracy on the validation split",
    "test": "generate and grade answers to the test split",
    "predict": "generate answers to questions from a file or standard input (--questions FILE)",
    "grade": "grade the records of an earlier run again, without generating",
    "data": "show prompts, completions and grades of a data set, to check it before a fit",
    "doctor": "load a model, try every method on it, and report what works and what it needs",
    "partition": "group the backbone's layers into stages, as DHAM does before fit, and draw figures",
    "saliency": "measure the information flow from the prompt in one question (--question TEXT)",
    "label-words": "measure the flow through the label words of one few-shot prompt (--question TEXT)",
    "words": "find the words nearest to each virtual token of a trained prompt",
    "export": "write a trained prompt for PEFT or vLLM, or upload it to the Hugging Face Hub",
    "serve": "answer OpenAI-compatible requests with trained prompts",
    "lm-eval": "evaluate a trained prompt on tasks of lm-evaluation-harness",
    "calibrate": "find the threshold of Dynamic Prompt Corruption (DPC) on the validation split",
    "compare": "run a comparison of methods, or compare finished runs, in one table",
    "compare-saliency": "draw the saliency of several runs on common scales",
    "footprint": "compute the memory and traffic that a backbone and a prompt need, or plan a study",
}
# Names of the same subcommands in other programs.
OTHER_NAMES = {
    "train": "fit",
    "eval": "test",
    "evaluate": "test",
    "generate": "predict",
    "scaling": "footprint",
    "check": "doctor",
}


def load_command(name: str) -> "Command":
    """Return the subcommand of a name in ``COMMANDS``."""
    command: Command = import_module(f"{__name__}.{name.replace('-', '_')}").COMMAND
    return command


def loaded_commands() -> list["Command"]:
    """Return all subcommands."""
    return [load_command(name) for name in COMMANDS]

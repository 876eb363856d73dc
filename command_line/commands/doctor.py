"""``doctor``: what works with a model, and what it needs.

  promptstage doctor models/smollm2
  promptstage doctor meta-llama/Llama-3.1-8B --dtype bfloat16
  promptstage doctor Qwen/Qwen3.5-4B --random      # reads config.json alone

The model is loaded and checked as before every run. Each method that adds parameters to the model then
trains, generates and is measured on a few random tokens. With --random, this is a tiny random model of the
same family: no weights are downloaded, and the numbers do not hold for them.
"""

from typing import get_args

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.one_line_parser import OneLineParser
from promptstage.utilities.errors import UserError

_OPTIONS = {
    "backbone.name": "MODEL",
    "backbone.gguf_file": "--gguf-file",
    "backbone.quantization": "--quantization",
}


class Doctor(DirectCommand):
    """Load a model, try every feature, and report what works."""

    def main(self, name: str, options: list[str]) -> int:
        from promptstage.lightning_modules.backbone.loading import BackboneConfig, DType

        parser = OneLineParser(name, (__doc__ or "").partition("\n\n")[2])
        parser.add_argument(
            "model", metavar="MODEL", nargs="?", help="hub id, local folder or 'embedded', as --backbone.name"
        )
        parser.add_argument(
            "--random", action="store_true", help="use a tiny random model of the family, from config.json"
        )
        parser.add_argument("--revision", help="commit, tag or branch of a hub id")
        parser.add_argument("--gguf-file", metavar="FILE", help="GGUF file in the folder or repository")
        parser.add_argument("--dtype", choices=get_args(DType), default="float32", help="default: float32")
        parser.add_argument(
            "--quantization", choices=("none", "4bit"), default="none", help="4bit: NF4, needs a GPU"
        )
        parser.add_argument(
            "--trust-remote-code",
            action="store_true",
            help="run code that comes with the model; read it first",
        )
        parsed = parser.parse(options)
        if parsed.model is None:
            raise UserError("doctor needs a model: a hub id, a folder or 'embedded'")
        if parsed.random and parsed.quantization != "none":
            raise UserError("--random and --quantization cannot be combined: a tiny model is not quantized")
        from promptstage.command_line.doctor import examine

        try:
            config = BackboneConfig(
                parsed.model,
                parsed.revision,
                parsed.gguf_file,
                parsed.dtype,
                parsed.trust_remote_code,
                quantization=parsed.quantization,
            )
            examine(config, parsed.random)
        except UserError as error:
            raise UserError(_name_options(str(error))) from error
        return 0


def _name_options(message: str) -> str:
    """Name the options of this command instead of those of ``fit``."""
    for setting, option in _OPTIONS.items():
        message = message.replace(setting, option)
    return message


COMMAND = Doctor()

"""``words``: words nearest to the virtual tokens of a soft prompt."""

from typing import TYPE_CHECKING

from promptstage.command_line.commands.base import Invocation, TrainerCommand
from promptstage.utilities.errors import UserError, shown_path

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser


class Words(TrainerCommand):
    """Find the words nearest to each virtual token of a trained prompt."""

    description = "Find the words nearest to each virtual token of a trained prompt: promptstage words RUN."
    own_options = ("nearest", "vocabulary")
    results = "words"

    def add_options(self, parser: "LightningArgumentParser") -> None:
        from promptstage.lightning_modules.nearest_words import DEEP_VOCABULARY, NEAREST

        parser.add_argument(
            "--nearest", type=int, default=NEAREST, help="number of words for each virtual token"
        )
        parser.add_argument(
            "--vocabulary",
            type=int | None,
            default=DEEP_VOCABULARY,
            help="number of tokens to compare with at layers after the first (lowest ids); null: all",
        )

    def expand(self, given: list[str]) -> list[str]:
        """Use a first argument without an option as the run."""
        return ["--ckpt_path", *given] if given and not given[0].startswith("-") else given

    def check(self, options: list[list[str]], has_checkpoint: bool) -> None:
        if not has_checkpoint and not any(option[0] in ("-h", "--help") for option in options):
            raise UserError("words needs a trained prompt: promptstage words RUN")

    def run(self, invocation: Invocation) -> None:
        from promptstage.callbacks.words.files import FILE, format_words
        from promptstage.composition.jobs import words

        config, session = invocation.config, invocation.session
        layers = words(session, invocation.module, config.nearest, config.vocabulary)
        for line in format_words(layers):
            print(line)
        print(f"words are in {shown_path(session.folders.out / FILE)}")


COMMAND = Words()

"""``predict``: generate answers to questions from a file or standard input."""

from pathlib import Path
from typing import TYPE_CHECKING

from promptstage.command_line.commands.base import Invocation, TrainerCommand
from promptstage.command_line.streams import output_is_open
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser


class Predict(TrainerCommand):
    """Generate answers to a user's questions."""

    description = "Generate an answer to each question, and write a JSON line for each."
    own_options = ("decoder", "questions", "answers")
    text_options = {"questions": str, "answers": str}
    evaluates = "limit_predict_batches"
    writes = False

    def add_options(self, parser: "LightningArgumentParser") -> None:
        self.add_decoder(parser)
        parser.add_argument(
            "--questions", type=str, default="-", help="file with one question per line; -: standard input"
        )
        parser.add_argument(
            "--answers", type=str, default="-", help="output file of JSON Lines; -: standard output"
        )

    def check(self, options: list[list[str]], has_checkpoint: bool) -> None:
        if not output_is_open() and not any(option[0].startswith("--answers") for option in options):
            raise UserError("standard output is closed: give --answers FILE")

    def prepare(self, invocation: Invocation) -> None:
        super().prepare(invocation)
        from lightning.pytorch.callbacks import ProgressBar

        from promptstage.command_line.answers import check_answers

        answers = invocation.config.answers
        for callback in invocation.session.callbacks:
            if answers == "-" and isinstance(callback, ProgressBar):
                raise UserError(
                    f"trainer.callbacks: {type(callback).__name__} draws on standard output, as the answers "
                    "do: give --answers FILE"
                )
        if answers != "-":
            check_answers(Path(answers).expanduser())  # before anything is generated

    def run(self, invocation: Invocation) -> None:
        from promptstage.command_line.answers import write_answers
        from promptstage.command_line.questions import read_questions
        from promptstage.composition.jobs import predict

        data, session = invocation.data, invocation.session
        questions = read_questions(invocation.config.questions, data.question_field)
        records = predict(session, invocation.module, data, questions)
        assert session.made is not None
        if session.made.is_global_zero:
            write_answers(records, invocation.config.answers)


COMMAND = Predict()

"""``label-words``: information flow through the label words of one few-shot prompt."""

from typing import TYPE_CHECKING

from promptstage.command_line.commands.base import Invocation, TrainerCommand
from promptstage.utilities.errors import UserError, shown_path

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser


class LabelWordsOfPrompt(TrainerCommand):
    """Predict the label of one question and measure the information flow through its label words."""

    description = "Predict the label of one few-shot question, and measure the flow through its label words."
    own_options = ("question",)
    text_options = {"question": str}
    evaluates = "limit_predict_batches"
    results = "label_words"

    def add_options(self, parser: "LightningArgumentParser") -> None:
        parser.add_argument("--question", type=str, default="", help="text of the question")

    def prepare(self, invocation: Invocation) -> None:
        if not invocation.config.question.strip():
            raise UserError("label-words needs a question: give --question TEXT")

    def run(self, invocation: Invocation) -> None:
        from promptstage.command_line.answers import write_answers
        from promptstage.command_line.label_word_table import print_label_words
        from promptstage.composition.jobs import label_words

        session = invocation.session
        callback, records = label_words(
            session, invocation.module, invocation.data, invocation.config.question
        )
        if not records or callback.summary is None:
            return
        out = session.folders.out
        write_answers(records, str(out / "answers.jsonl"))
        print_label_words(callback.summary, callback.measured[0], records[0])
        print(f"figures and numbers are in {shown_path(out)}")


COMMAND = LabelWordsOfPrompt()

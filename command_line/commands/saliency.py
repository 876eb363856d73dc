"""``saliency``: information flow from the prompt in one question."""

from typing import TYPE_CHECKING

from promptstage.command_line.commands.base import Invocation, TrainerCommand
from promptstage.utilities.errors import UserError, shown_path

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser


class Saliency(TrainerCommand):
    """Generate an answer to one question and measure the information flow to it."""

    description = "Generate an answer to one question, and measure the information flow to it."
    own_options = ("question", "layers")
    text_options = {"question": str}
    evaluates = "limit_predict_batches"
    results = "saliency"

    def add_options(self, parser: "LightningArgumentParser") -> None:
        parser.add_argument("--question", type=str, default="", help="text of the question")
        parser.add_argument(
            "--layers", type=list[int] | None, default=None, help="layers to observe; default: all"
        )

    def prepare(self, invocation: Invocation) -> None:
        if not invocation.config.question.strip():
            raise UserError("saliency needs a question: give --question TEXT")

    def run(self, invocation: Invocation) -> None:
        from promptstage.command_line.answers import write_answers
        from promptstage.command_line.flow_table import print_flow
        from promptstage.composition.jobs import saliency

        config, session = invocation.config, invocation.session
        saved, records = saliency(session, invocation.module, invocation.data, config.question, config.layers)
        if saved is None:
            return
        out = session.folders.out
        write_answers(records, str(out / "answers.jsonl"))
        print_flow(saved, records[0])
        print(f"figures and numbers are in {shown_path(out)}")


COMMAND = Saliency()

"""``test``: generate and grade answers to the test split."""

from typing import TYPE_CHECKING

from promptstage.command_line.commands.base import Invocation, TrainerCommand

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser


class Test(TrainerCommand):
    """Evaluate a prompt on the test split."""

    description = "Generate and grade an answer to each question of the test split."
    own_options = (
        "decoder",
        "verbose",
    )
    evaluates = "limit_test_batches"
    results = "test"

    def add_options(self, parser: "LightningArgumentParser") -> None:
        self.add_decoder(parser)
        parser.add_argument("--verbose", type=bool, default=False, help="print a table of the metrics")

    def run(self, invocation: Invocation) -> None:
        from promptstage.composition.jobs import test

        test(invocation.session, invocation.module, invocation.data, invocation.config.verbose)


COMMAND = Test()

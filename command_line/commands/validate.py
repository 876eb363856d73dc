"""``validate``: loss and accuracy on the validation split."""

from typing import TYPE_CHECKING

from promptstage.command_line.commands.base import Invocation, TrainerCommand

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser


class Validate(TrainerCommand):
    """Evaluate a prompt on the validation split."""

    description = "Compute loss and accuracy on the validation split."
    own_options = (
        "decoder",
        "verbose",
    )
    evaluates = "limit_val_batches"
    results = "validate"

    def add_options(self, parser: "LightningArgumentParser") -> None:
        self.add_decoder(parser)
        parser.add_argument("--verbose", type=bool, default=True, help="print a table of the metrics")

    def run(self, invocation: Invocation) -> None:
        from promptstage.composition.jobs import validate

        validate(invocation.session, invocation.module, invocation.data, invocation.config.verbose)


COMMAND = Validate()

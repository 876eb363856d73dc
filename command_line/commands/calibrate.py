"""``calibrate``: the threshold of Dynamic Prompt Corruption."""

from typing import TYPE_CHECKING

from promptstage.command_line.commands.base import Invocation, TrainerCommand

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser


class Calibrate(TrainerCommand):
    """Find the threshold of Dynamic Prompt Corruption (DPC) on the validation split."""

    description = "Find the threshold of Dynamic Prompt Corruption (DPC) on the validation split."
    own_options = (
        "decoder",
        "examples",
    )
    evaluates = "limit_val_batches"
    results = "calibrate"

    def add_options(self, parser: "LightningArgumentParser") -> None:
        self.add_decoder(parser)
        parser.add_argument(
            "--examples",
            type=int | None,
            default=None,
            help="number of validation questions; default: all",
        )

    def run(self, invocation: Invocation) -> None:
        from promptstage.composition.jobs import calibrate

        calibrate(invocation.session, invocation.module, invocation.data, invocation.config.examples)


COMMAND = Calibrate()

"""``partition``: the backbone's stages."""

from typing import TYPE_CHECKING

from promptstage.command_line.commands.base import Invocation, TrainerCommand
from promptstage.command_line.commands.fit import add_training_options
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser


class Partition(TrainerCommand):
    """Group the backbone's layers into stages and draw figures, without training."""

    description = "Group the backbone's layers into stages, as DHAM does before fit, and draw figures."
    takes_checkpoint = False
    own_options = ("early_stopping", "save_every")  # for experiment files
    defaults = {"model": {"class_path": "promptstage.DHAM"}}
    trains = True

    def add_options(self, parser: "LightningArgumentParser") -> None:
        add_training_options(parser)

    def check(self, options: list[list[str]], has_checkpoint: bool) -> None:
        if has_checkpoint:
            raise UserError("partition takes no checkpoint: a run with DHAM has its stages in partition.json")

    def default_name(self, method: str, data: str) -> str:
        return f"partition-{data}".lower()

    def run(self, invocation: Invocation) -> None:
        from lightning.pytorch.utilities import rank_zero_info

        from promptstage.composition.jobs import partition

        partition(invocation.session, invocation.module, invocation.data)
        folder = invocation.session.folders.run
        drawn = " and its figures are" if any(folder.glob("*.png")) else " is"
        rank_zero_info(f"partition.json{drawn} in {folder}: --model.partition {folder}")


COMMAND = Partition()

"""``data``: examples of a data set as the model and the grader see them."""

from typing import TYPE_CHECKING

from promptstage.command_line.commands.base import Invocation, TrainerCommand
from promptstage.command_line.commands.fit import add_training_options
from promptstage.utilities.checks import check_minimum

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser


class Data(TrainerCommand):
    """Print examples of each split, and check all of them, without loading the backbone's weights."""

    description = "Show prompts, completions and grades of a data set as the model and the grader see them."
    own_options = ("show", "early_stopping", "save_every")  # the last two for experiment files
    defaults = {"model": {"class_path": "promptstage.Pretrained"}}
    trains = True
    writes = False
    loads_backbone = False

    def add_options(self, parser: "LightningArgumentParser") -> None:
        add_training_options(parser)
        parser.add_argument(
            "--show",
            type=int,
            default=3,
            help="examples to print of each split, and of each part of a mixture",
        )

    def run(self, invocation: Invocation) -> None:
        from promptstage.composition.preview import preview

        check_minimum({"show": invocation.config.show}, 0)
        preview(invocation.data, invocation.objects.backbone, invocation.config.show)


COMMAND = Data()

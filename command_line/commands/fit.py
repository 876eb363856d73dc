"""``fit``: train a soft prompt."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from promptstage.command_line.commands.base import Invocation, TrainerCommand

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

# Options in a checkpoint's configuration that a resumed fit does not use.
OF_THE_RUN = ("run_dir", "ckpt_path", "weights_only")


def add_training_options(parser: "LightningArgumentParser") -> None:
    """Add the options of an experiment's configuration that only training uses."""
    from lightning.pytorch.callbacks import EarlyStopping

    parser.add_argument(
        "--save_every", type=int, default=100, help="write checkpoints/last.ckpt every N optimizer steps"
    )
    parser.add_class_arguments(EarlyStopping, "early_stopping")
    parser.set_defaults(
        {
            "early_stopping.monitor": "val/loss",
            "early_stopping.patience": 5,
            # Check after validation: an epoch that max_steps cuts short has no end.
            "early_stopping.check_on_train_epoch_end": False,
        }
    )


class Fit(TrainerCommand):
    """Train a prompt, or continue a run."""

    description = "Train a soft prompt."
    own_options: ClassVar[Collection[str]] = ("early_stopping", "save_every")
    trains = True
    resumes = True

    def add_options(self, parser: "LightningArgumentParser") -> None:
        add_training_options(parser)

    def stored_settings(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in stored.items() if key not in OF_THE_RUN}

    def run(self, invocation: Invocation) -> None:
        from promptstage.composition.jobs import fit

        objects = invocation.objects
        fit(
            invocation.session, invocation.module, invocation.data, objects.save_every, objects.early_stopping
        )


COMMAND = Fit()

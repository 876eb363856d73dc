"""Options that a subcommand has beside those of model, data and trainer."""

from typing import Any

from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser

# What a checkpoint says about the model it holds; the rest of its config is used to resume a fit.
MODEL_SECTIONS = ("backbone", "model", "data")
# Options of the fit that TensorBoard's table of hyperparameters shows besides those.
TRAINED_WITH = (
    "seed_everything",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.accumulate_grad_batches",
    "trainer.precision",
    "trainer.gradient_clip_val",
)
# Belongs to one command, not to the run.
COMMAND_ONLY = (
    "run_dir",
    "ckpt_path",
    "questions",
    "answers",
    "question",
    "layers",
    "examples",
    "weights_only",
)
# Subcommands that take an experiment's whole configuration.
TRAINING = ("fit", "partition")
# Sections and options that only some subcommands have.
OF_SUBCOMMANDS: dict[str, tuple[str, ...]] = {
    "early_stopping": TRAINING,
    "save_every": TRAINING,
    "questions": ("predict",),
    "answers": ("predict",),
    "return_predictions": ("predict",),
    "question": ("saliency",),
    "layers": ("saliency",),
    "examples": ("calibrate",),
    "verbose": ("validate", "test"),
}


def add_options(parser: LightningArgumentParser, subcommand: str) -> None:
    """Add the run's folder, and what only this subcommand knows."""
    parser.add_argument(
        "--run_dir",
        type=str | None,
        default=None,
        help="folder of the run; default: runs/METHOD-DATASET, or the checkpoint's own run",
    )
    if subcommand in TRAINING:
        parser.add_argument(
            "--save_every",
            type=int,
            default=100,
            help="write checkpoints/last.ckpt every N optimizer steps",
        )
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {
                "early_stopping.monitor": "val/loss",
                "early_stopping.patience": 5,
                # At the end of a validation: an epoch that max_steps cuts short has none.
                "early_stopping.check_on_train_epoch_end": False,
            }
        )
    if subcommand == "predict":
        parser.add_argument(
            "--questions", type=str, default="-", help="file, one question a line; -: standard input"
        )
        parser.add_argument(
            "--answers", type=str, default="-", help="file for the answers as JSON lines; -: standard output"
        )
    if subcommand == "saliency":
        parser.add_argument("--question", type=str, default="", help="the question to answer and look at")
        parser.add_argument(
            "--layers", type=list[int] | None, default=None, help="layers to look at; default: all"
        )
    if subcommand == "calibrate":
        parser.add_argument(
            "--examples",
            type=int | None,
            default=None,
            help="the first so many validation questions; default: all",
        )


def kept_settings(stored: dict[str, Any], subcommand: str) -> dict[str, Any]:
    """What of a stored configuration comes before everything the user gives."""
    kept = {
        key: dict(value) if isinstance(value, dict) else value
        for key, value in stored.items()
        if (key not in COMMAND_ONLY if subcommand == "fit" else key in MODEL_SECTIONS)
    }
    precision = (stored.get("trainer") or {}).get("precision")
    if subcommand != "fit" and precision is not None:
        kept["trainer"] = {"precision": precision}  # numbers depend on it
    # A file from elsewhere must not decide that code from elsewhere is run.
    kept.get("backbone", {}).pop("trust_remote_code", None)
    return kept

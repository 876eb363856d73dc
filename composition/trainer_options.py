"""Checks of the options of Lightning's trainer, the same from Python and the command line.

Lightning rejects some of these values only during a run, and others never.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import Trainer

from promptstage.utilities.checks import check_maximum, check_minimum, check_positive
from promptstage.utilities.errors import UserError

# Minimum of each number.
MINIMUM: dict[str, float] = {
    "num_nodes": 1,
    "fast_dev_run": 0,
    "max_epochs": -1,
    "min_epochs": 0,
    "max_steps": -1,
    "min_steps": 0,
    "limit_train_batches": 0,
    "limit_val_batches": 0,
    "limit_test_batches": 0,
    "limit_predict_batches": 0,
    "overfit_batches": 0,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 1,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 0,
    "reload_dataloaders_every_n_epochs": 0,
}
# All batches of a step are loaded before it, to count its tokens.
LARGEST_ACCUMULATION = 1 << 16
# Options that are not supported: the only value allowed, and why.
FIXED: dict[str, tuple[Any, str]] = {
    "use_distributed_sampler": (False, "data sets divide their examples among the ranks themselves"),
    "barebones": (False, "a run writes logs and checkpoints"),
    "model_registry": (None, "checkpoints are written to the run folder only"),
    "default_root_dir": (None, "--run_dir sets the run folder, in Python the argument folder"),
}


def check_option_names(options: Mapping[str, Any], own: Sequence[str]) -> None:
    """Check the names of options that are passed on to Lightning's trainer.

    Args:
        own: names of the function's own arguments, among which a misspelt name may have its nearest.

    Raises:
        UserError: naming the first unknown option, with the nearest known one.
    """
    known = {*inspect.signature(Trainer.__init__).parameters, *own} - {"self"}
    for name in options.keys() - known:
        close = {"learning_rate": ["lr"], "run_dir": ["folder"]}.get(name)
        close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else "see lightning.Trainer for its options"
        raise UserError(f"argument {name} is unknown: {hint}")


def check_trainer_options(options: Mapping[str, Any], evaluates: str | None = None) -> None:
    """Check options of Lightning's trainer, before anything is created.

    Args:
        options: values by name; missing ones have their defaults.
        evaluates: name of the limit of batches that must be > 0; None: no such limit.

    Raises:
        UserError: naming the option, its value and what is allowed.
    """
    for name, minimum in MINIMUM.items():
        if is_number(value := options.get(name)):
            check_minimum({f"trainer.{name}": value}, minimum)
    if is_number(accumulated := options.get("accumulate_grad_batches")):
        check_maximum({"trainer.accumulate_grad_batches": accumulated}, LARGEST_ACCUMULATION)
    if evaluates is not None and options.get(evaluates) == 0:
        raise UserError(f"trainer.{evaluates} must be > 0, got 0: nothing would be evaluated")
    if is_number(interval := options.get("val_check_interval")):
        check_positive({"trainer.val_check_interval": interval})
    for unit in ("epochs", "steps"):
        least, most = options.get(f"min_{unit}"), options.get(f"max_{unit}")
        if least and most is not None and 0 <= most < least:
            raise UserError(f"trainer.min_{unit} must be <= trainer.max_{unit} ({most}), got {least}")
    for name, (allowed, reason) in FIXED.items():
        if options.get(name, allowed) != allowed:
            shown = "null" if allowed is None else str(allowed).lower()
            raise UserError(f"trainer.{name} must be {shown}: {reason}")


def is_number(value: Any) -> bool:
    """Return whether a value is an integer or a float, and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)

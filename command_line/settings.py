"""Checks of a parsed configuration before objects are created.

Lightning rejects some of these values only during a run, and others never.
"""

from enum import Enum
from typing import Any

from jsonargparse import Namespace

from promptstage.lightning_modules.checkpoint_numbers import LARGEST_COUNT
from promptstage.utilities.checks import check_between, check_minimum, check_positive
from promptstage.utilities.errors import UserError

# Minimum of each number.
MINIMUM: dict[str, float] = {
    "save_every": 1,
    "early_stopping.patience": 0,
    "early_stopping.min_delta": 0,
    "trainer.num_nodes": 1,
    "trainer.fast_dev_run": 0,
    "trainer.max_epochs": -1,
    "trainer.min_epochs": 0,
    "trainer.max_steps": -1,
    "trainer.min_steps": 0,
    "trainer.limit_train_batches": 0,
    "trainer.limit_val_batches": 0,
    "trainer.limit_test_batches": 0,
    "trainer.limit_predict_batches": 0,
    "trainer.overfit_batches": 0,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.num_sanity_val_steps": -1,
    "trainer.log_every_n_steps": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": 0,
    "trainer.reload_dataloaders_every_n_epochs": 0,
}
# All batches of a step are loaded before it, to count its tokens.
LARGEST_ACCUMULATION = 1 << 16
LARGEST_SEED = 2**32 - 1

# Trainer options that are not supported: the only value allowed, and why.
FIXED: dict[str, tuple[Any, str]] = {
    "use_distributed_sampler": (False, "data sets divide their examples among the ranks themselves"),
    "barebones": (False, "a run writes logs and checkpoints"),
    "model_registry": (None, "checkpoints are written to the run folder only"),
    "default_root_dir": (None, "--run_dir sets the run folder"),
}


def check_settings(config: Namespace, evaluates: str | None = None) -> None:
    """Check the options of the trainer and the run.

    Args:
        evaluates: name of the trainer's limit of batches that must be > 0; None: no such limit.

    Raises:
        UserError: naming the option, its value and what is allowed.
    """
    seed = config.get("seed_everything")
    if seed is None:
        raise UserError("seed_everything needs a value, got null: 0 is the default")
    if _is_number(seed):
        check_between({"seed_everything": seed}, 0, LARGEST_SEED)
    _check_sizes(config.as_dict(), "")
    for option, minimum in MINIMUM.items():
        value = config.get(option)
        if _is_number(value):
            check_minimum({option: value}, minimum)
    accumulated = config.get("trainer.accumulate_grad_batches")
    if _is_number(accumulated) and accumulated > LARGEST_ACCUMULATION:
        raise UserError(
            f"trainer.accumulate_grad_batches must be <= {LARGEST_ACCUMULATION}, got {accumulated}"
        )
    if evaluates is not None and config.get(f"trainer.{evaluates}") == 0:
        raise UserError(f"trainer.{evaluates} must be > 0, got 0: nothing would be evaluated")
    interval = config.get("trainer.val_check_interval")
    if _is_number(interval):
        check_positive({"trainer.val_check_interval": interval})
    for unit in ("epochs", "steps"):
        minimum, maximum = config.get(f"trainer.min_{unit}"), config.get(f"trainer.max_{unit}")
        if minimum and maximum is not None and 0 <= maximum < minimum:
            raise UserError(f"trainer.min_{unit} must be <= trainer.max_{unit} ({maximum}), got {minimum}")
    for name, (allowed, reason) in FIXED.items():
        value = config.get(f"trainer.{name}")
        if value != allowed:
            shown = "null" if allowed is None else str(allowed).lower()
            raise UserError(f"trainer.{name} must be {shown}: {reason}")


def normalize_settings(config: Namespace) -> None:
    """Remove repeated callbacks, and replace enumerations, which YAML lacks, by their values."""
    callbacks = config.get("trainer.callbacks")
    if isinstance(callbacks, list):
        config["trainer.callbacks"] = [
            callback for i, callback in enumerate(callbacks) if callback not in callbacks[:i]
        ]
    _replace_enumerations(config)


def _check_sizes(node: Any, name: str) -> None:
    """Check that a checkpoint, which holds no larger integers, can store every option."""
    if isinstance(node, int) and abs(node) > LARGEST_COUNT:
        raise UserError(f"{name.replace('.init_args', '')} must be between -2^53 and 2^53, got {node}")
    if isinstance(node, dict):
        for key, value in node.items():
            _check_sizes(value, f"{name}.{key}" if name else key)
    elif isinstance(node, list | tuple):
        for value in node:
            _check_sizes(value, name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _replace_enumerations(node: Any) -> None:
    if isinstance(node, Namespace):
        for key, value in vars(node).items():
            if isinstance(value, Enum):
                setattr(node, key, value.value)
            else:
                _replace_enumerations(value)
    elif isinstance(node, list):
        for value in node:
            _replace_enumerations(value)

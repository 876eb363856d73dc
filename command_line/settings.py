"""Checks of a parsed configuration before objects are created."""

from enum import Enum
from typing import Any

from jsonargparse import Namespace

from promptstage.composition.trainer_options import check_trainer_options, is_number
from promptstage.lightning_modules.checkpoint_numbers import LARGEST_COUNT
from promptstage.utilities.checks import check_between, check_minimum
from promptstage.utilities.errors import UserError

# Minimum of each number, beside those of the trainer.
MINIMUM = {"save_every": 1, "early_stopping.patience": 0, "early_stopping.min_delta": 0}
LARGEST_SEED = 2**32 - 1


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
    if is_number(seed):
        check_between({"seed_everything": seed}, 0, LARGEST_SEED)
    _check_sizes(config.as_dict(), "")
    for option, minimum in MINIMUM.items():
        check_minimum({option: config.get(option)}, minimum)
    check_trainer_options(config.trainer.as_dict(), evaluates)


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

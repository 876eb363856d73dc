"""Validation results that a checkpoint was selected by, stored in the checkpoint."""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L

from promptstage.lightning_modules.checkpoint_numbers import short_repr
from promptstage.utilities.errors import UserError

ENTRY = "validation"  # of a checkpoint
BEST = "best.ckpt"
# Logged values that are stored, and their names in the summary of a test.
METRICS = {"val/loss": "validation_loss", "val/accuracy": "validation_accuracy"}


def validation_results(trainer: L.Trainer) -> dict[str, float]:
    """Return the results of the last validation of a fit, by the names they are logged under."""
    logged = trainer.callback_metrics
    return {name: float(logged[name]) for name in METRICS if name in logged}


def selection_of(checkpoint: Mapping[str, Any], file: str, monitor: str) -> dict[str, Any]:
    """Return how a checkpoint was selected, for the summary of a test.

    Args:
        checkpoint: contents of the checkpoint.
        file: name of its file; only ``best.ckpt`` was selected.
        monitor: logged value that selects the method's best checkpoint.

    Returns:
        ``selected_by``, the logged value or None, and the results of the validation that selected it, as far
        as they are stored: checkpoints written before version 0.2 have none.

    Raises:
        UserError: if a stored result is not a finite number.
    """
    stored = checkpoint.get(ENTRY, {})
    if not isinstance(stored, Mapping):
        raise UserError(f"the checkpoint is damaged: {ENTRY} must be a mapping, got {short_repr(stored)}")
    if file != BEST:
        return {"selected_by": None}
    results = {own: stored[name] for name, own in METRICS.items() if name in stored}
    for name, value in results.items():
        if not isinstance(value, float) or not math.isfinite(value):
            raise UserError(
                f"the checkpoint is damaged: {name} must be a finite number, got {short_repr(value)}"
            )
    return {"selected_by": monitor, **results}

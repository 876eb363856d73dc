"""States of checkpoint and early-stopping callbacks in a checkpoint: scores and counts, never paths.

Lightning's ``ModelCheckpoint`` stores the paths of the files it has written and, after a resume, removes the
one that its state names as the worst. A state is untrusted data, so that paths are neither written to a
checkpoint nor read from one: they follow from the callback's own folder.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

from promptstage.lightning_modules.checkpoint_numbers import is_count, short_repr, to_float
from promptstage.utilities.errors import UserError

# Entries of ModelCheckpoint that name files. The keys stay, so that plain Lightning loads the state, too.
NO_FILES: dict[str, Any] = {
    "dirpath": None,
    "best_model_path": "",
    "kth_best_model_path": "",
    "best_k_models": {},
    "last_model_path": "",
}


def scores_only(states: Mapping[str, Any], trainer: L.Trainer) -> dict[str, Any]:
    """Return the callbacks' states without the file names of each ``ModelCheckpoint``."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    savers = {callback.state_key for callback in callbacks if isinstance(callback, ModelCheckpoint)}
    return {key: {**state, **NO_FILES} if key in savers else state for key, state in states.items()}


def restored_states(stored: object, trainer: L.Trainer) -> dict[str, Any]:
    """Return the parts of a checkpoint's callback states that the trainer's callbacks may load.

    A ``ModelCheckpoint`` with one file of a fixed name keeps its best score if that file is in its current
    folder; any other starts anew and leaves earlier files alone. ``EarlyStopping`` keeps its best score and
    wait count; its patience is the current one.

    Raises:
        UserError: if a state does not have the form that its callback writes.
    """
    states = {} if stored is None else stored
    if not isinstance(states, Mapping):
        raise UserError(f"the checkpoint is damaged: callbacks must be a mapping, got {short_repr(states)}")
    allowed = dict(states)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
        state = states.get(callback.state_key)
        if state is None:
            continue
        if not isinstance(state, Mapping):
            raise UserError(f"the checkpoint is damaged: state of {callback.state_key} must be a mapping")
        if isinstance(callback, ModelCheckpoint):
            allowed[callback.state_key] = _files_state(callback, state, trainer)
        elif isinstance(callback, EarlyStopping):
            allowed[callback.state_key] = _stopping_state(callback, state)
        elif isinstance(callback, Timer):
            elapsed = state.get("time_elapsed")
            if not isinstance(elapsed, Mapping):
                raise UserError("the checkpoint is damaged: time_elapsed must be a mapping")
            allowed[callback.state_key] = {
                "time_elapsed": {key: _number(elapsed, key) or 0.0 for key in elapsed}
            }
    return allowed


def _files_state(callback: ModelCheckpoint, state: Mapping[str, Any], trainer: L.Trainer) -> dict[str, Any]:
    score = _number(state, "best_model_score")
    path = ""
    if score is not None and callback.save_top_k == 1 and callback.filename and "{" not in callback.filename:
        path = callback.format_checkpoint_name({})
        # Other ranks may not see the first one's folder.
        if not trainer.strategy.broadcast(Path(path).is_file()):
            path = ""
    best = None if score is None or not path else torch.tensor(score)
    return {
        **NO_FILES,
        "dirpath": callback.dirpath,
        "best_model_score": best,
        "best_model_path": path,
        "kth_best_model_path": path,
        "kth_value": callback.kth_value if best is None else best,
        "best_k_models": {} if best is None else {path: best},
    }


def _stopping_state(callback: EarlyStopping, state: Mapping[str, Any]) -> dict[str, Any]:
    best, first = _number(state, "best_score", finite=False), float(callback.best_score)
    if best is not None and math.isinf(best) and best != first:
        raise UserError(f"the checkpoint is damaged: best_score must be finite or {first}, got {best}")
    return {
        "wait_count": _count(state, "wait_count"),
        "stopped_epoch": _count(state, "stopped_epoch"),
        "best_score": callback.best_score if best is None else torch.tensor(best),
        "patience": callback.patience,
    }


def _number(state: Mapping[str, Any], name: str, finite: bool = True) -> float | None:
    """Read a score, which may be infinite (none yet) if ``finite`` is false; None if it is missing."""
    if state.get(name) is None:
        return None
    value = to_float(state[name])
    if math.isnan(value):
        raise UserError(f"the checkpoint is damaged: {name} must be a number, got {short_repr(state[name])}")
    if finite and math.isinf(value):
        raise UserError(f"the checkpoint is damaged: {name} must be finite, got {value}")
    return value


def _count(state: Mapping[str, Any], name: str) -> int:
    value = state.get(name, 0)
    if not is_count(value):
        raise UserError(f"the checkpoint is damaged: {name} must be an integer >= 0, got {short_repr(value)}")
    return int(value)

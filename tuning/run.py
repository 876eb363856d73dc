"""A whole search: checks, trials, results."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console

from promptstage.composition.session import Session
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.tuning.configuration import check_same, trial_configuration
from promptstage.tuning.halving import FIRST, REDUCTION
from promptstage.tuning.report import Tuning, describe, print_results, write_results
from promptstage.tuning.search import Report, search
from promptstage.tuning.space import SearchSpace, given_values
from promptstage.tuning.study import Study, Trial, check_optuna
from promptstage.tuning.trial import TrialTrainer
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import RunFailure, UserError, shown_path
from promptstage.utilities.files import write_text
from promptstage.utilities.reading import read_text

TRIALS = 15  # two rounds


def check_options(prompt: SoftPromptModule, options: Mapping[str, Any], trials: int) -> None:
    """Check the trainer's options of a search, before anything is loaded.

    Raises:
        UserError: naming the first option that a search cannot use.
    """
    check_optuna()
    check_minimum({"trials": trials}, 2)
    steps = options.get("max_steps")
    if steps is None or steps == -1:
        raise UserError("tune needs the optimizer steps of a fit: give --trainer.max_steps N")
    check_minimum({"trainer.max_steps": steps}, REDUCTION**2)
    if options.get("limit_val_batches") == 0:
        raise UserError("trainer.limit_val_batches must be > 0, got 0: tune selects by validation loss")
    if options.get("fast_dev_run"):
        raise UserError("fast_dev_run is for fit: tune has --trainer.max_steps")
    if prompt.monitor[0] != "val/loss":
        raise UserError(
            f"tune selects by val/loss, but {type(prompt).__name__} is selected by {prompt.monitor[0]}"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("tune must be started on one rank: it runs on one device")
    for name in ("devices", "num_nodes"):
        value = options.get(name)
        one_device = isinstance(value, list) and len(value) == 1
        if value not in (None, "auto", 1, "1") and not one_device:
            raise UserError(f"tune runs on one device: trainer.{name} must be 1, got {value}")


def search_values(
    session: Session,
    prompt: SoftPromptModule,
    data: ReasoningDataModule,
    space: SearchSpace,
    trials: int = TRIALS,
) -> Tuning:
    """Search for the values with the lowest validation loss, or continue an interrupted search.

    Args:
        space: values to choose from.
        trials: number of trials.

    Returns:
        The trials, also written to the session's folder.

    Raises:
        UserError: if an option is not allowed, or an interrupted search was started with other ones.
        RunFailure: if all trials diverge.
    """
    folder = session.folders.run
    stored = folder / "config.yaml"
    if stored.exists():
        check_same(read_text(stored, "configuration"), session.config, shown_path(folder))
    else:
        write_text(stored, session.config)
    steps: int = session.options["max_steps"]
    study = Study(folder, space, torch.initial_seed())
    first = space.first_values(min(trials, FIRST), given_values(prompt, space), torch.initial_seed())
    train = TrialTrainer(session, prompt, data, steps)
    rank_zero_info(
        f"{trials} trials of up to {steps} steps, learning rates from {space.lr[0]:g} to {space.lr[1]:g}; "
        f"results in {shown_path(folder)}"
    )

    def train_and_print(trial: Trial, step: int, report: Report) -> None:
        try:
            train(trial, step, report)
        except RunFailure as failure:
            rank_zero_info(f"trial {trial.number} ({describe(trial)}) diverged: {failure}")
            raise
        loss = study.trial(trial.number).loss()
        rank_zero_info(f"trial {trial.number} ({describe(trial)}): step {step}, validation loss {loss:.4f}")
        # From now on there are results to keep, whatever happens.
        session.folders = session.folders._replace(created=False)

    finished = False
    try:
        search(study, first, trials, steps, train_and_print)
        finished = True
    finally:
        result = Tuning(folder, study.trials())
        if any(trial.curve for trial in result.trials):
            best = result.best
            config = None if best is None else trial_configuration(session.config, prompt, best.values)
            write_results(result, f"{type(prompt).__name__}, {data.name}", config)
            print_results(result, Console(width=None if Console().is_terminal else 110))
            if not finished:
                print(f"continue with: promptstage tune --resume {shown_path(folder)}", file=sys.stderr)
    if result.best is None:
        raise RunFailure(f"all {trials} trials diverged: lower --lr_range, or see the reasons in trials.json")
    return result

"""Trials of a search in an Optuna study on disk, which an interrupted search continues.

Optuna proposes the values of all trials after the first round by a tree-structured Parzen estimator:
"Algorithms for hyper-parameter optimization", Bergstra et al., NeurIPS 2011.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from promptstage.tuning.space import SearchSpace, Values
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    import optuna

FILE = "study.db"
State = Literal["running", "stopped", "complete", "failed"]
REASON = "reason"  # attribute of a failed trial


@dataclass(frozen=True)
class Trial:
    """A trial and its validation losses so far.

    Attributes:
        number: number from 0.
        values: values that it is trained with.
        state: ``running``; ``stopped`` at a rung; ``complete``; or ``failed``, if its numbers became
            infinite or NaN.
        curve: validation loss by optimizer step, in ascending order.
        reason: reason for a failure; empty otherwise.
    """

    number: int
    values: Values
    state: State
    curve: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def steps(self) -> int:
        """Optimizer steps up to the last validation; 0 before the first."""
        return max(self.curve, default=0)

    def loss(self, step: int | None = None) -> float:
        """Return the lowest validation loss up to a step, or of all; infinity without any.

        A fit keeps the checkpoint with the lowest loss, so that later, larger ones do not count.
        """
        losses = (loss for at, loss in self.curve.items() if step is None or at <= step)
        return min(losses, default=math.inf)


def check_optuna() -> None:
    """
    Raises:
        UserError: if Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise UserError('tune needs optuna: pip install "promptstage[tune]"')


class Study:
    """Trials of a search, stored in the file ``study.db`` (SQLite) of its folder.

    Args:
        folder: folder of the search.
        space: values to choose from.
        seed: random seed of the proposals.
    """

    def __init__(self, folder: Path, space: SearchSpace, seed: int) -> None:
        """
        Raises:
            UserError: if the file cannot be opened.
        """
        check_optuna()
        import optuna
        from sqlalchemy import URL
        from sqlalchemy.exc import DatabaseError

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.seed = space, seed
        self._names = self._distributions(*space.lr).keys()
        path = folder.resolve() / FILE
        url = URL.create("sqlite", database=str(path)).render_as_string()
        try:
            self._study = optuna.create_study(
                storage=url, study_name="tune", direction="minimize", load_if_exists=True
            )
        except DatabaseError as error:
            raise UserError(f"study {path} cannot be opened: {error.orig}") from error

    def trials(self) -> list[Trial]:
        """Return all trials by number."""
        states: dict[str, State] = {"PRUNED": "stopped", "COMPLETE": "complete", "FAIL": "failed"}
        return [
            Trial(
                trial.number,
                Values(**trial.params),
                states.get(trial.state.name, "running"),
                dict(sorted(trial.intermediate_values.items())),
                trial.user_attrs.get(REASON, ""),
            )
            for trial in self._study.get_trials(deepcopy=False)
            if trial.params.keys() == self._names
        ]

    def trial(self, number: int) -> Trial:
        """Return one trial."""
        return self.trials()[number]

    def add(self, values: Values | None, lr: tuple[float, float]) -> None:
        """Add a trial.

        Args:
            values: its values; None: Optuna proposes them, from the results so far, the number of the trial
                and the seed.
            lr: smallest and largest learning rate to propose.
        """
        import optuna
        from optuna.trial import TrialState, create_trial

        number = len(self.trials())
        if values is not None:
            self._study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=values.parameters(),
                    distributions=self._distributions(*lr),
                )
            )
            return
        # One sampler for each trial, so that a search that continues proposes the same values.
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=1, seed=(self.seed + number) % 2**32
        )
        stored = len(self._study.get_trials(deepcopy=False))
        # A process that is killed here leaves a trial without all of its values.
        trial = self._handle(number) if stored > number else self._study.ask()
        trial.suggest_float("lr", *lr, log=True)
        if self.space.lengths:
            trial.suggest_categorical("num_virtual_tokens", self.space.lengths)
        if self.space.inits:
            trial.suggest_categorical("init", self.space.inits)

    def report(self, number: int, step: int, loss: float) -> None:
        """Store a validation loss, unless the trial has one of the same step already."""
        if step not in self.trial(number).curve:
            self._handle(number).report(loss, step)

    def stop(self, number: int) -> None:
        """Mark a trial as stopped at a rung."""
        self._finish(number, "PRUNED")

    def complete(self, number: int) -> None:
        """Mark a trial as trained to the last step; its value is its lowest loss."""
        self._finish(number, "COMPLETE", self.trial(number).loss())

    def fail(self, number: int, reason: str) -> None:
        """Mark a trial as failed."""
        self._handle(number).set_user_attr(REASON, reason)
        self._finish(number, "FAIL")

    def _finish(self, number: int, state: str, value: float | None = None) -> None:
        import optuna

        if self.trial(number).state == "running":
            self._study.tell(number, value, state=optuna.trial.TrialState[state])

    def _handle(self, number: int) -> "optuna.Trial":
        import optuna

        return optuna.Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)

    def _distributions(self, low: float, high: float) -> dict[str, Any]:
        from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

        distributions: dict[str, BaseDistribution] = {"lr": FloatDistribution(low, high, log=True)}
        if self.space.lengths:
            distributions["num_virtual_tokens"] = CategoricalDistribution(self.space.lengths)
        if self.space.inits:
            distributions["init"] = CategoricalDistribution(self.space.inits)
        return distributions

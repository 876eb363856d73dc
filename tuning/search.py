"""Successive halving over the trials of a study."""

from collections.abc import Callable, Iterable, Sequence

from promptstage.tuning.halving import promoted, rounds, rungs
from promptstage.tuning.space import Values
from promptstage.tuning.study import Study, Trial
from promptstage.utilities.errors import RunFailure

Report = Callable[[int, float], None]
Train = Callable[[Trial, int, Report], None]


def search(study: Study, first: Sequence[Values], trials: int, steps: int, train: Train) -> None:
    """Run successive halving, or what is left of it.

    The order of trials, and the values of those that Optuna proposes, depend on the results and the seed
    only. An interrupted search therefore repeats its decisions from the stored results, and trains what is
    missing.

    Args:
        first: values of the first round.
        trials: number of trials in all rounds.
        steps: optimizer steps of a trial that is never stopped.
        train: trains a trial up to a step, continuing where it ended, and reports each validation loss with
            its step; raises a RunFailure if the trial diverges.
    """
    for round_number, numbers in enumerate(rounds(trials)):
        best = best_trial(study.trials()[: numbers[0]])
        lr = study.space.lr if best is None else study.space.around(best.values.lr, round_number)
        for number in numbers:
            if number >= len(study.trials()):
                study.add(first[number] if number < len(first) else None, lr)
        _halve(study, numbers, steps, train)


def _halve(study: Study, numbers: Iterable[int], steps: int, train: Train) -> None:
    """Train the trials of a round rung by rung, and stop all but the best at each."""
    remaining = list(numbers)
    for step in rungs(steps):
        for number in remaining:
            _train(study, number, step, train)
        losses = {
            trial.number: trial.loss(step) for trial in map(study.trial, remaining) if trial.state != "failed"
        }
        if step == steps:
            for number in losses:
                study.complete(number)
            return
        going = promoted(losses, len(remaining))
        for number in losses.keys() - set(going):
            study.stop(number)
        remaining = going


def _train(study: Study, number: int, step: int, train: Train) -> None:
    trial = study.trial(number)
    if trial.state == "failed" or trial.steps >= step:
        return
    try:
        train(trial, step, lambda at, loss: study.report(number, at, loss))
    except RunFailure as failure:
        study.fail(number, str(failure))


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """Return the complete trial with the lowest validation loss; None if there is none."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return min(complete, key=lambda trial: (trial.loss(), trial.number), default=None)

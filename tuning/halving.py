"""Schedule of successive halving: how many trials train for how many steps.

"Non-stochastic best arm identification and hyperparameter optimization", Jamieson and Talwalkar, 2016,
arXiv:1502.07943. All trials of a round train to the first rung; the best third of them goes on to the next,
up to the last, and continues there instead of starting again. Rounds after the first are smaller, since they
only refine its result.
"""

from collections.abc import Mapping

REDUCTION = 3  # one of this many trials goes on at a rung
FIRST, LATER = REDUCTION**2, 2 * REDUCTION  # trials of the first round, and of later ones


def rungs(steps: int) -> list[int]:
    """Return the steps at which the trials of a round are compared.

    Args:
        steps: optimizer steps of a trial that is never stopped.

    >>> rungs(81), rungs(100)
    ([9, 27, 81], [11, 33, 100])
    """
    return [steps // REDUCTION**level for level in (2, 1)] + [steps]


def rounds(trials: int) -> list[range]:
    """Return the numbers of the trials of each round.

    >>> rounds(5), rounds(20)
    ([range(0, 5)], [range(0, 9), range(9, 15), range(15, 20)])
    """
    first = [range(min(trials, FIRST))]
    return first + [range(start, min(start + LATER, trials)) for start in range(FIRST, trials, LATER)]


def promoted(losses: Mapping[int, float], size: int) -> list[int]:
    """Return the numbers of the trials that go on after a rung, best first.

    Args:
        losses: validation loss of each trial at the rung, by its number; without failed trials.
        size: number of trials that entered the rung, failed ones included.

    >>> promoted({0: 0.5, 1: 0.2, 2: 0.4}, 7)
    [1, 2]
    """
    ranked = sorted(losses, key=lambda number: (losses[number], number))
    return ranked[: max(1, size // REDUCTION)]

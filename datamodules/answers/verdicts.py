"""Verdicts on whether two answers are the same, which may have to stay open."""

from collections.abc import Callable, Iterable

Verdict = bool | None  # None: not decided in time, or no case for the rule that was asked
Same = Callable[[str, str], Verdict]


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Whether all are true: one that is false decides, and none after it is asked for."""
    undecided = False
    for verdict in verdicts:
        if verdict is False:
            return False
        undecided |= verdict is None
    return None if undecided else True


def some(verdicts: Iterable[Verdict]) -> Verdict:
    """Whether one is true: it decides, and none after it is asked for."""
    undecided = False
    for verdict in verdicts:
        if verdict:
            return True
        undecided |= verdict is None
    return None if undecided else False

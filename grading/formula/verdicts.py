"""Three-valued verdicts on the equality of two answers."""

from collections.abc import Callable, Iterable

Verdict = bool | None  # None: not decided in time, or the rule does not apply
Same = Callable[[str, str], Verdict]


def all_true(verdicts: Iterable[Verdict]) -> Verdict:
    """Return whether all verdicts are true, stopping at the first False; None if undecided.

    >>> all_true([True, None]), all_true([None, False])
    (None, False)
    """
    undecided = False
    for verdict in verdicts:
        if verdict is False:
            return False
        undecided |= verdict is None
    return None if undecided else True


def any_true(verdicts: Iterable[Verdict]) -> Verdict:
    """Return whether any verdict is true, stopping at the first True; None if undecided.

    >>> any_true([False, None]), any_true([None, True])
    (None, True)
    """
    undecided = False
    for verdict in verdicts:
        if verdict:
            return True
        undecided |= verdict is None
    return None if undecided else False

"""The process that is named when a job makes no progress."""

import pytest

from promptstage.callbacks.run.stalled_processes import Seen, State, stalled

WAITING = State("process 0", 9, 4, "the backward pass of training step 2", waits=True)
WORKING = State("rank 1", 9, 3, "training step 2", waits=False)


def at(state: State, beat: float, mark: float) -> Seen:
    return Seen(state, beat, mark)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (at(WAITING, 100, 100), at(WORKING, 100, 50), ""),
        (at(WAITING, 100, 60), at(WORKING, 100, 60), ""),
        (at(WAITING, 100, 1), at(WORKING, 100, 0), "no progress for 90 s: rank 1 in training step 2"),
        (
            at(WAITING, 100, 0),
            at(WORKING, 5, 0),
            "no heartbeat for 90 s: it is stopped, or its machine is gone",
        ),
        # In an evaluation one process may have finished its part.
        (at(WAITING, 100, 0), at(WORKING, 100, 99), ""),
        (at(WORKING, 100, 99), at(WORKING, 100, 0), "no progress for 90 s: rank 1 in training step 2"),
        (at(WAITING, 100, 0), at(WAITING, 100, 0), "no progress for 90 s: process 0 in the backward pass of"),
        (at(State("process 0", 9), 100, 0), at(WORKING, 100, 0), ""),
    ],
)
def test_who_is_named(first: Seen, second: Seen, expected: str) -> None:
    text = stalled({0: first, 1: second}, now=100, after=90)
    assert text.startswith(expected)
    assert bool(text) == bool(expected)

"""Ranks agree on a stop at an optimizer step, and communicate for it only if there are several."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from promptstage.callbacks.run.stop_signals import StopSignals


def trainer(ranks: int, others: list[float]) -> Any:
    """A trainer of several ranks whose other ranks have set these flags."""
    calls: list[torch.Tensor] = []

    def reduce(flags: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "sum"
        calls.append(flags)
        return flags + torch.tensor(others)

    strategy = SimpleNamespace(reduce=reduce)
    return SimpleNamespace(world_size=ranks, strategy=strategy, calls=calls, global_step=3)


@pytest.mark.parametrize(
    ("ranks", "own", "others", "agreed"),
    [
        (1, (False, False), [0, 0], (False, False)),
        (1, (True, True), [0, 0], (True, True)),
        (4, (False, False), [0, 0], (False, False)),
        (4, (True, False), [0, 0], (True, False)),
        (4, (False, False), [2, 1], (True, True)),
        (4, (True, True), [3, 3], (True, True)),
    ],
)
def test_any_rank_stops_all(
    ranks: int, own: tuple[bool, bool], others: list[float], agreed: tuple[bool, bool]
) -> None:
    signals, module = StopSignals(), SimpleNamespace(device=torch.device("cpu"))
    signals.stop_requested, signals.requeue_requested = own
    fit = trainer(ranks, others)
    signals.on_before_optimizer_step(fit, module, None)  # type: ignore[arg-type]
    assert (signals.stop_agreed, signals.requeue_agreed) == agreed
    assert len(fit.calls) == (ranks > 1)
    if agreed[0]:
        with pytest.raises(SIGTERMException):
            signals.on_train_batch_end(fit, module)  # type: ignore[arg-type]
    else:
        signals.on_train_batch_end(fit, module)  # type: ignore[arg-type]


def test_a_signal_between_two_steps_waits_for_the_next() -> None:
    signals, module = StopSignals(), SimpleNamespace(device=torch.device("cpu"))
    signals.on_before_optimizer_step(trainer(1, [0, 0]), module, None)  # type: ignore[arg-type]
    signals.stop_requested = True
    signals.on_train_batch_end(trainer(1, [0, 0]), module)  # type: ignore[arg-type]
    assert not signals.stop_agreed

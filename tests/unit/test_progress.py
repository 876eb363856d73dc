"""The progress bar where there is no terminal: a line now and then, and one at the end."""

import io
from types import SimpleNamespace
from typing import Any

import pytest

from promptstage.callbacks.run import progress
from promptstage.callbacks.run.progress import ExamplesProgressBar
from promptstage.utilities import progress as bars
from promptstage.utilities.progress import FORMAT, ExamplesTqdm


def bar(file: io.StringIO, leave: bool = True) -> ExamplesTqdm:
    shown = ExamplesTqdm(desc="Testing", total=4, file=file, leave=leave, bar_format=FORMAT, unit=" examples")
    shown.batch_size, shown.examples = 8, 30
    return shown


@pytest.mark.parametrize(("leave", "lines"), [(True, 1), (False, 0)])
def test_short_work_is_one_line(leave: bool, lines: int) -> None:
    log = io.StringIO()
    shown = bar(log, leave)
    for done in range(1, 5):
        shown.n = done
        shown.refresh()
    shown.close()
    said = log.getvalue()
    assert "\r" not in said
    assert [line.split("|")[-1].split()[0] for line in said.splitlines() if line] == ["30/30"] * lines


def test_long_work_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(bars.time, "monotonic", lambda: now)
    log = io.StringIO()
    outer, shown = bar(log), bar(log)  # the second one would be drawn a line below
    for done in range(1, 4):
        now += 40
        shown.n = done
        shown.refresh()
    assert [line.split("|")[-1].split()[0] for line in log.getvalue().splitlines()] == ["15/30"]
    outer.close()
    shown.close()
    assert "\x1b" not in log.getvalue()


def test_a_hidden_bar_has_no_line() -> None:
    log = io.StringIO()
    shown = ExamplesTqdm(total=4, file=log, disable=True)
    shown.update(4)
    shown.close()
    assert log.getvalue() == ""


@pytest.mark.parametrize(("seconds", "rate"), [(4.0, "5.62 examples/s"), (96.0, "0.23 examples/s")])
def test_rates_are_examples_per_second(seconds: float, rate: str) -> None:
    """Also of less than one example per second, where tqdm writes seconds per unit."""
    shown = bar(io.StringIO())
    shown.n, shown.start_t = 3, shown._time() - seconds
    assert f"[ {rate}, ends " in str(shown)
    shown.close()


@pytest.mark.parametrize(
    ("steps", "done", "accumulated", "end"),
    [(12, 7, 1, 12), (-1, 7, 1, 15), (6, 6, 2, 12), (2, 0, 2, 4), (99, 15, 1, 15)],
    ids=["a resumed epoch", "no max_steps", "resumed and accumulated", "accumulated", "a new epoch"],
)
def test_the_bar_of_an_epoch_ends_where_training_does(
    steps: int, done: int, accumulated: int, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch has 15 batches of one example, of which ``done`` came before the fit was resumed."""
    log = io.StringIO()
    monkeypatch.setattr(progress.sys, "stderr", log)
    count = SimpleNamespace(current=SimpleNamespace(ready=done))
    trainer: Any = SimpleNamespace(
        max_steps=steps,
        num_training_batches=15,
        global_step=done // accumulated,
        accumulate_grad_batches=accumulated,
        current_epoch=3,
        world_size=1,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=count)),
    )
    data = SimpleNamespace(train_batch_size=1, example_ids=lambda split: range(15))
    monkeypatch.setattr(progress, "data_of", lambda trainer: data)
    shown = ExamplesProgressBar()
    shown._trainer = trainer
    shown.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert shown.train_progress_bar.total == end
    assert shown.train_progress_bar.n == (0 if done == 15 else done)
    shown.train_progress_bar.n = end
    shown.train_progress_bar.close()
    assert log.getvalue().startswith("Epoch 3")
    assert f" {end}/{end} " in log.getvalue()

"""The progress bar where there is no terminal: a line now and then, and one at the end."""

import io

import pytest

from callbacks import progress
from callbacks.progress import FORMAT, ExamplesTqdm


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
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
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

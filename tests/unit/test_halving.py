"""Schedule and search space of ``tune``: rungs, rounds, rates; decisions depend on stored results alone."""

import math
from pathlib import Path

import pytest

from promptstage.tuning.halving import promoted, rounds, rungs
from promptstage.tuning.search import Report, best_trial, search
from promptstage.tuning.space import SearchSpace, Values
from promptstage.tuning.study import Study, Trial
from promptstage.utilities.errors import RunFailure, UserError

SPACE = SearchSpace((1e-4, 1.0))


def loss_at(lr: float, step: int) -> float:
    """A loss that is lowest at 0.03, and nearer to it after more steps."""
    return 0.1 + 1 / step + (math.log10(lr) - math.log10(0.03)) ** 2


def run(study: Study, trials: int = 15) -> list[tuple[int, int]]:
    """Search with the losses above, validated at every ninth of 81 steps; return what was trained."""
    trained: list[tuple[int, int]] = []

    def train(trial: Trial, step: int, report: Report) -> None:
        trained.append((trial.number, step))
        if trial.values.lr > 0.5:
            raise RunFailure("too large")
        for at in range(trial.steps + 9, step + 1, 9):
            report(at, loss_at(trial.values.lr, at))

    search(study, SPACE.first_values(9, Values(1e-4), 0), trials, 81, train)
    return trained


def test_fifteen_trials_cost_four_fits() -> None:
    assert [len(numbers) for numbers in rounds(15)] == [9, 6]
    # 9, 3 and 1 trials, then 6, 2 and 1, each from its last rung on.
    first, second, last = rungs(81)
    steps = (9 + 6) * first + (3 + 2) * (second - first) + 2 * (last - second)
    assert steps / 81 == pytest.approx(4.11, abs=0.01)


@pytest.mark.parametrize("steps", [9, 10, 100, 1000])
def test_rungs_ascend_to_the_last_step(steps: int) -> None:
    first, second, last = rungs(steps)
    assert 1 <= first < second < last == steps


def test_failed_trials_leave_no_room_for_worse_ones() -> None:
    assert promoted({4: 0.3, 7: 0.1}, 9) == [7, 4]
    assert promoted({}, 3) == []


def test_first_rates_divide_the_range_evenly() -> None:
    values = SPACE.first_values(9, Values(1e-4), 0)
    logs = [math.log10(value.lr) for value in values]
    assert logs == pytest.approx([-4, *(-3.75 + 0.5 * part for part in range(8))])


def test_later_rates_are_between_the_neighbors_of_the_best() -> None:
    assert SPACE.around(1e-2, 1) == pytest.approx((1e-2 / 10**0.5, 1e-2 * 10**0.5))
    assert SPACE.around(1e-2, 2) == pytest.approx((1e-2 / 10**0.25, 1e-2 * 10**0.25))
    assert SPACE.around(1e-4, 1)[0] == 1e-4


def test_all_choices_are_used_equally_often() -> None:
    space = SearchSpace((1e-3, 1.0), (5, 10), ("random", "vocabulary"))
    values = space.first_values(8, Values(7.0, 5, "random"), 3)
    choices = [(value.num_virtual_tokens, value.init) for value in values]
    assert all(choices.count(choice) == 2 for choice in choices)
    assert len(set(choices)) == 4
    assert values == space.first_values(8, Values(7.0, 5, "random"), 3)


def test_a_trial_of_a_killed_process_gets_its_values(tmp_path: Path) -> None:
    """The process ended between the creation of the trial and the proposal of its values."""
    (tmp_path / "other").mkdir()
    studies = [Study(folder, SPACE, seed=4) for folder in (tmp_path, tmp_path / "other")]
    for study in studies:
        study.add(Values(0.01), SPACE.lr)
        study.report(0, 9, 0.5)
    studies[0]._study.ask()
    assert len(studies[0].trials()) == 1
    for study in studies:
        study.add(None, (0.005, 0.02))
    first, second = (study.trials() for study in studies)
    assert first == second
    assert 0.005 <= first[1].values.lr <= 0.02


def test_a_damaged_study_is_reported(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database" * 100, encoding="utf-8")
    with pytest.raises(UserError, match=r"study\.db cannot be opened: file is not a database"):
        Study(tmp_path, SPACE, seed=0)


def test_a_search_finds_the_minimum_and_repeats_from_its_file(tmp_path: Path) -> None:
    study = Study(tmp_path, SPACE, seed=0)
    trained = run(study)
    best = best_trial(study.trials())
    assert best is not None
    assert abs(math.log10(best.values.lr / 0.03)) < 0.15
    assert len({number for number, _ in trained}) == 15
    assert [trial.state for trial in study.trials()].count("failed") == 1
    assert run(Study(tmp_path, SPACE, seed=0)) == []
    (tmp_path / "other").mkdir()
    other = Study(tmp_path / "other", SPACE, seed=0)
    assert run(other) == trained
    assert other.trials() == study.trials()

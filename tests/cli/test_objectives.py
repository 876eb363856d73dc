"""Training by reward and by distillation on the command line."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.cli.test_mistakes import assert_one_error
from tests.tiny_folder import QUIET, call, passed

BY_ACCURACY = ["--early_stopping.monitor=val/accuracy", "--early_stopping.mode=max"]
REWARD = ["--model.objective.kind=reward", "--model.objective.group_size=2", *BY_ACCURACY]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def prompt(run: str) -> bytes:
    return Path(run, "prompt_last.safetensors").read_bytes()


def test_a_resumed_fit_by_reward_is_the_same(common: list[str]) -> None:
    passed("fit", *common, *REWARD, "--trainer.max_steps=4", "--run_dir=whole")
    passed("fit", *common, *REWARD, "--trainer.max_steps=3", "--run_dir=part")
    passed("fit", "--ckpt_path=part", "--trainer.max_steps=4", "--run_dir=part", *QUIET)
    assert prompt("part") == prompt("whole")


def test_a_resumed_fit_may_change_the_objective(common: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    passed("fit", *common, "--trainer.max_steps=2", "--run_dir=first")
    before = prompt("first")
    outcome = call("fit", "--ckpt_path=first", REWARD[0], "--run_dir=second", *QUIET)
    assert_one_error(outcome, "set --early_stopping.monitor val/accuracy")
    assert not Path("second").exists()
    outcome = passed("fit", "--ckpt_path=first", *REWARD, "--trainer.max_steps=4", "--run_dir=second", *QUIET)
    assert "--model.objective.kind is 'reward' (the checkpoint was made with 'cross_entropy')" in outcome.err
    assert prompt("first") == before != prompt("second")
    assert re.search(r"4 steps, last validation loss [\d.]+, accuracy [\d.]+; the run is in", caplog.text)
    passed("test", "--ckpt_path=second", *QUIET)
    assert json.loads(Path("second/test/summary.json").read_text(encoding="utf-8"))["examples"] == 6


def test_settings_that_reward_cannot_use_are_rejected(common: list[str]) -> None:
    outcome = call("fit", *common, "--model.objective.kind=reward", "--trainer.max_steps=1")
    assert_one_error(outcome, "set --early_stopping.monitor val/accuracy --early_stopping.mode max")
    outcome = call("fit", *common, *REWARD, "--model.val_generations=0", "--trainer.max_steps=1")
    assert_one_error(
        outcome, "val_generations must be >= 1 (objective.kind reward selects the best checkpoint"
    )
    finder = "--trainer.callbacks=LearningRateFinder"
    outcome = call("fit", *common, *REWARD, finder, "--trainer.max_steps=1")
    assert_one_error(outcome, "which is not a measure of progress with objective.kind reward")
    outcome = call("tune", *common, *REWARD, "--trainer.max_steps=40")
    assert_one_error(outcome, "tune selects by val/loss, but PromptTuning is selected by val/accuracy")
    outcome = call("fit", *common, "--model.objective.kind=rewards", "--trainer.max_steps=1")
    assert_one_error(outcome, "did you mean 'reward'?")
    assert not list(Path.cwd().glob("runs/*"))


def test_texts_are_read_from_files_once(common: list[str]) -> None:
    Path("context.txt").write_text("Reverse: ab\nba\n\n", encoding="utf-8")
    flags = [flag for flag in common if not flag.startswith("--model")]
    flags += ["--model=PrefixTuning", "--model.num_virtual_tokens=4", "--model.num_frozen_tokens=1"]
    flags += ["--model.init.kind=text", "--model.init.text=@context.txt", "--model.objective.kind=distill"]
    passed("fit", *flags, "--model.objective.context=@context.txt", "--trainer.max_steps=2", "--run_dir=run")
    Path("context.txt").unlink()
    stored = yaml.safe_load(Path("run/config.yaml").read_text(encoding="utf-8"))["model"]["init_args"]
    assert stored["init"]["text"] == stored["objective"]["context"] == "Reverse: ab\nba"
    passed("test", "--ckpt_path=run", *QUIET)
    passed("fit", "--ckpt_path=run", "--trainer.max_steps=3", *QUIET)
    outcome = call("fit", *flags, "--run_dir=other")
    assert_one_error(outcome, "--model.init.text: file context.txt does not exist")

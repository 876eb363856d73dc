"""Runs and options that saliency rejects, in one line."""

from pathlib import Path

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from promptstage.callbacks.dpc.callback import DPC
from promptstage.callbacks.saliency.callback import SaliencyDiagnostics
from promptstage.lightning_modules.pretrained import Pretrained
from promptstage.utilities.errors import UserError
from tests.cli.test_mistakes import assert_one_error
from tests.cli.test_saliency import CALLBACK, GOLD, GRADIENTS, read
from tests.tiny_folder import QUIET, call

MISTAKES = [
    ([GRADIENTS, "--trainer.callbacks.balanced=0"], "balanced must be >= 1, got 0"),
    ([GRADIENTS, "--trainer.callbacks.rollout=true", "--trainer.callbacks.layers=[1]"], "needs all layers"),
    ([GRADIENTS, "--trainer.callbacks.accumulate_over=spam"], "spam"),
    ([GRADIENTS, "--trainer.callbacks.layers=[4]"], "layers of saliency names layer 4, but backbone"),
    ([GRADIENTS, "--trainer.callbacks.layers=[2,1]"], "must ascend without repeats, got [2, 1]"),
    ([GRADIENTS, "--trainer.callbacks.examples=0"], "examples must be >= 1, got 0"),
    ([GRADIENTS, "--trainer.callbacks.alpha=0"], "alpha must be > 0, got 0"),
    ([GRADIENTS, "--trainer.callbacks.every_n_steps=0"], "every_n_steps must be >= 1, got 0"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES)
def test_invalid_options_are_rejected(flags: list[str], message: str, trained: Path) -> None:
    assert_one_error(call("test", *QUIET, "--ckpt_path", trained, CALLBACK, *flags), message)
    assert not (trained / "test-2").exists()


def test_balanced_needs_grades(common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("fit", *common, CALLBACK, "--trainer.callbacks.balanced=2", "--run_dir=run")
    assert_one_error(outcome, "balanced needs graded answers: use it with validate or test, not with fit")


@pytest.mark.parametrize("callback", [SaliencyDiagnostics(), DPC(threshold=0.5)])
def test_inference_mode_is_rejected(callback: Callback) -> None:
    """Only the command line turns it off by default."""
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], barebones=False)
    trainer.state.fn = TrainerFn.TESTING
    with pytest.raises(UserError, match="needs gradients, which inference mode forbids"):
        callback.setup(trainer, Pretrained(), "test")


def test_a_model_without_prompt_is_rejected(common: list[str], trained: Path) -> None:
    flags = [flag for flag in common if not flag.startswith("--model")]
    outcome = call("test", *flags, "--model=Pretrained", "--run_dir=bare", CALLBACK, GRADIENTS)
    assert_one_error(
        outcome, "Pretrained has no soft prompt: there is no flow to measure; curve_only measures"
    )
    curve = "--trainer.callbacks.curve_only=true"
    outcome = call("test", *flags, "--model=Pretrained", "--run_dir=bare", CALLBACK, curve, GOLD, GRADIENTS)
    assert outcome.code == 0, outcome.err
    rows, arrays, _ = read(Path("bare/test"))
    assert (arrays["curve"] > 0).all()
    assert rows[0]["prompt_to_rationale"] == rows[0]["prompt_to_second_half"] == [None] * 4
    assert all(value > 0 for row in rows for value in row["question_to_second_half"])
    assert all(value > 0 for row in rows for value in row["first_half_to_second_half"])
    assert Path("bare/test/saliency_flows.png").exists()


def test_unusable_questions_are_rejected(trained: Path, common: list[str]) -> None:
    missing = call("saliency", *QUIET, "--ckpt_path", trained)
    assert_one_error(missing, "saliency needs a question: give --question TEXT")
    flags = ["--question=1+1", "--layers=[7]"]
    beyond = call("saliency", *QUIET, "--ckpt_path", trained, *flags)
    assert_one_error(beyond, "layers of saliency names layer 7, but backbone")
    flags = [flag for flag in common if not flag.startswith("--model")]
    bare = call("saliency", *flags, "--model=Pretrained", "--run_dir=bare", "--question=1+1")
    assert_one_error(bare, "Pretrained has no soft prompt: there is no flow to measure")
    assert not (trained / "saliency").exists()
    assert not Path("bare").exists()

"""Lightning's ``LearningRateFinder`` in ``fit``: its result is used and stored, and nothing else changes."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateFinder

import promptstage as ps
from promptstage.callbacks.run.learning_rate import suggested_rate
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.utilities.errors import RunFailure
from tests.cli.commands import STEPS, files, fit, refused
from tests.tiny_folder import QUIET, call

pytestmark = pytest.mark.usefixtures("empty_folder")
FINDER = [
    "--trainer.callbacks=LearningRateFinder",
    *("--trainer.callbacks.min_lr=1e-4", "--trainer.callbacks.num_training_steps=12"),
]


def prompt(run: str = "run") -> torch.Tensor:
    state: torch.Tensor = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"][
        "prompt"
    ]
    return state


def lr_of(text: str) -> float:
    rate: float = yaml.safe_load(text)["model"]["init_args"]["optimizer"]["lr"]
    return rate


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_fit_with_the_finder_is_a_fit_with_its_rate(schedule: str, small: list[str]) -> None:
    flags = [f"--model.optimizer.schedule={schedule}", "--model.optimizer.warmup_steps=1"]
    outcome = fit(*small, STEPS, *flags, *FINDER)
    assert "Learning rate set to" not in outcome.err  # Lightning's own suggestion
    config = Path("run/config.yaml").read_text(encoding="utf-8")
    found = lr_of(config)
    assert 1e-4 < found < 1
    assert found != 1e-3
    stored = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert stored["config"] == config
    assert stored["promptstage"]["arguments"]["optimizer"]["lr"] == found
    assert not [name for name in files() if "lr_find" in name]
    fit(*small, STEPS, *flags, f"--model.optimizer.lr={found!r}", "--run_dir=plain")
    assert torch.equal(prompt(), prompt("plain"))


def test_a_resumed_fit_does_not_search_again(small: list[str]) -> None:
    fit(*small, STEPS)
    outcome = call("fit", *QUIET, "--ckpt_path=run", "--trainer.max_steps=3", *FINDER)
    assert outcome.code == 2
    assert outcome.errors == [
        "error: trainer.callbacks: LearningRateFinder is for new fits: a resumed fit keeps its learning rate"
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["min_lr=2"], "LearningRateFinder: min_lr must be > 0 and < max_lr 1, got 2"),
        (["min_lr=0.1", "max_lr=0.01"], "LearningRateFinder: min_lr must be > 0 and < max_lr 0.01, got 0.1"),
        (["num_training_steps=2"], "LearningRateFinder: num_training_steps must be >= 10, got 2"),
    ],
)
def test_impossible_ranges_are_refused(flags: list[str], message: str, small: list[str]) -> None:
    given = [f"--trainer.callbacks.{flag}" for flag in flags]
    outcome = call("fit", *small, STEPS, FINDER[0], *given, "--run_dir=run")
    assert outcome.code == 2
    assert outcome.errors == [f"error: trainer.callbacks: {message}"]
    assert not Path("run").exists()


def test_several_ranks_are_refused(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L.Trainer, "world_size", 2)
    line = refused(*small, STEPS, *FINDER)
    assert line == (
        "error: trainer.callbacks: LearningRateFinder runs on one rank, got 2: use 'promptstage tune' first"
    )


def test_the_finder_sets_the_rate_in_a_plain_trainer(tiny: Path) -> None:
    """The schedule must keep Lightning's suggestion after the first step."""
    module = ps.PromptTuning(
        str(tiny), num_virtual_tokens=4, optimizer=OptimizerConfig(lr=0.5), val_generations=0
    )
    data = ps.Generated(task="letter_reversal", train_size=32, validation_size=4)
    finder = LearningRateFinder(min_lr=1e-4, num_training_steps=20)
    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[finder],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    assert finder.optimal_lr is not None
    assert module.lr == finder.optimal_lr.suggestion() != 0.5
    assert trainer.optimizers[0].param_groups[0]["lr"] == module.lr


def test_the_steepest_fall_over_the_logarithm_is_suggested() -> None:
    rates = np.logspace(-8, 0, 100)
    # Falls around 1e-2, with noise that dominates the slope over the rate itself at small rates.
    noise = 1e-3 * np.random.default_rng(0).standard_normal(100)
    losses = 3 - 2 / (1 + (rates / 1e-2) ** -2) + noise
    slopes = np.diff(losses) / np.diff(np.log(rates))
    expected = rates[10 + int(np.argmin(slopes[10:]))]
    assert suggested_rate([*rates], [*losses]) == pytest.approx(expected)
    assert 3e-3 < suggested_rate([*rates], [*losses]) < 3e-2
    losses[50] = np.nan
    assert 3e-3 < suggested_rate([*rates], [*losses]) < 3e-2


def test_too_few_losses_are_reported() -> None:
    with pytest.raises(RunFailure, match="too few finite losses"):
        suggested_rate([1e-3, 1e-2], [1.0, float("nan")])

"""The user's callbacks: each is used beside the run's, replaces one of them, or is refused at once."""

from pathlib import Path

import lightning.pytorch.callbacks as lightning_callbacks
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar

from promptstage.composition import session
from promptstage.composition.user_callbacks import ACCURACY, TRAIN_METRICS, UNSUPPORTED
from tests.cli.commands import STEPS, files, fit, refused
from tests.tiny_folder import QUIET, call

pytestmark = pytest.mark.usefixtures("empty_folder")


def last_step() -> int:
    return torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"]


def test_metrics_to_monitor_are_those_of_a_fit(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from promptstage.callbacks.run.run_folder import RunFolder

    logged: set[str] = set()
    monkeypatch.setattr(
        RunFolder, "on_fit_end", lambda self, trainer, module: logged.update(trainer.callback_metrics)
    )
    fit(*small, STEPS)
    assert logged == {*TRAIN_METRICS, "val/loss", *ACCURACY}


def test_every_callback_of_lightning_is_supported_or_refused(small: list[str]) -> None:
    """The names are those that were checked; a new callback of Lightning has to be added."""
    tried = {
        *("BasePredictionWriter", "Callback", "Checkpoint", "DeviceStatsMonitor", "EarlyStopping"),
        *(
            "LambdaCallback",
            "LearningRateFinder",
            "LearningRateMonitor",
            "ModelCheckpoint",
            "ModelSummary",
            "OnExceptionCheckpoint",
        ),
        *("ProgressBar", "RichModelSummary", "RichProgressBar", "SpikeDetection", "ThroughputMonitor"),
        *("TQDMProgressBar", "Timer"),
    }
    for name in lightning_callbacks.__all__:
        cls = getattr(lightning_callbacks, name)
        assert (name in tried) != issubclass(cls, tuple(UNSUPPORTED)), name


@pytest.mark.parametrize(
    "flags",
    [
        ["BatchSizeFinder"],
        ["StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
        ["EMAWeightAveraging"],
        ["BackboneFinetuning"],
        ["ModelPruning", "--trainer.callbacks.pruning_fn=l1_unstructured"],
    ],
    ids=lambda flags: flags[0],
)
def test_callbacks_without_effect_are_refused(flags: list[str], small: list[str]) -> None:
    name, *rest = flags
    line = refused(*small, STEPS, f"--trainer.callbacks={name}", *rest)
    assert line.startswith(f"error: trainer.callbacks: {name} is not supported: ")


OWN_CHECKPOINTS = {
    "plain": ([], {"epoch=0-step=2.ckpt"}),
    "best two": (["monitor=val/loss", "save_top_k=2"], {"epoch=0-step=2.ckpt"}),
    "last": (["save_last=true"], {"epoch=0-step=2.ckpt", "last-v1.ckpt"}),
    "link": (["save_last=link"], {"epoch=0-step=2.ckpt", "last-v1.ckpt"}),
    "every step": (
        ["every_n_train_steps=1", "save_top_k=-1"],
        {"epoch=0-step=1.ckpt", "epoch=0-step=2.ckpt"},
    ),
}


@pytest.mark.parametrize(("options", "own"), OWN_CHECKPOINTS.values(), ids=OWN_CHECKPOINTS)
def test_user_checkpoints_are_saved_beside_those_of_the_run(
    options: list[str], own: set[str], small: list[str]
) -> None:
    flags = [f"--trainer.callbacks.{option}" for option in options]
    fit(*small, STEPS, "--trainer.callbacks=ModelCheckpoint", *flags)
    checkpoints = {Path(name).name for name in files() if name.endswith(".ckpt")}
    assert checkpoints == {"best.ckpt", "last.ckpt", *own}
    assert all(name.startswith("checkpoints/") for name in files() if name.endswith(".ckpt"))
    # The run's own state keeps its key, the user's has another.
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert len([key for key in state if "ModelCheckpoint" in key]) >= 3
    outcome = call("test", *QUIET, f"--ckpt_path=run/checkpoints/{min(own)}")
    assert outcome.code == 0, outcome.err
    assert Path("run/test/results.jsonl").is_file()


def test_a_class_name_is_resolved_equally_in_the_next_command(small: list[str]) -> None:
    for folder in ("run", "run-2"):
        fit(*small, STEPS, "--trainer.callbacks=ModelCheckpoint")
        own = {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/epoch=0-step=2.ckpt"}
        assert {name for name in files(folder) if name.endswith(".ckpt")} == own


def test_user_early_stopping_replaces_the_default(small: list[str]) -> None:
    """No loss decreases by 100, so the second validation ends the fit; the default waits for five more."""
    flags = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    flags += ["--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=100"]
    outcome = fit(*small, "--trainer.max_epochs=4", "--trainer.limit_train_batches=1", *flags)
    assert "note: trainer.callbacks: EarlyStopping replaces the run's early_stopping" in outcome.notes
    assert last_step() == 2


@pytest.mark.parametrize("name", ["RichProgressBar", "TQDMProgressBar"])
def test_a_user_progress_bar_replaces_the_default(
    name: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptstage.callbacks.run.run_folder import RunFolder

    used: list[str] = []

    def note_bars(self: object, trainer: Trainer, module: object) -> None:
        bars = (callback for callback in trainer.callbacks if isinstance(callback, ProgressBar))
        used.extend(type(bar).__name__ for bar in bars)

    monkeypatch.setattr(RunFolder, "on_fit_end", note_bars)
    shown = [*small, "--trainer.enable_progress_bar=true", STEPS, f"--trainer.callbacks={name}"]
    fit(*shown)
    assert used == [name]
    hidden = refused(*small, STEPS, f"--trainer.callbacks={name}")
    assert hidden == f"error: trainer.enable_progress_bar is false, but trainer.callbacks has a {name}"


def test_a_progress_bar_on_standard_output_is_rejected_in_predict(trained: Path) -> None:
    flags = ["--trainer.callbacks=TQDMProgressBar", "--trainer.enable_progress_bar=true"]
    line = refused(f"--ckpt_path={trained}", *flags, command="predict")
    assert "TQDMProgressBar draws on standard output, as the answers do: give --answers FILE" in line


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            ["ModelCheckpoint", "monitor=val_loss"],
            "trainer.callbacks.monitor 'val_loss' is unknown: did you mean",
        ),
        (
            ["EarlyStopping", "monitor=val_loss"],
            "trainer.callbacks.monitor 'val_loss' is unknown: did you mean",
        ),
        (
            ["ModelCheckpoint", "save_top_k=2"],
            "trainer.callbacks: ModelCheckpoint: ModelCheckpoint(save_top_k=2",
        ),
        (["EarlyStopping", "monitor=val/loss", "mode=up"], "trainer.callbacks: EarlyStopping: `mode` can be"),
        (
            ["Timer", "duration=soon"],
            "trainer.callbacks: Timer: `Timer(duration='soon')` is not a valid duration",
        ),
    ],
)
def test_invalid_options_of_callbacks_are_rejected(
    callback: list[str], message: str, small: list[str]
) -> None:
    name, *options = callback
    flags = [f"--trainer.callbacks.{option}" for option in options]
    assert message in refused(*small, STEPS, f"--trainer.callbacks={name}", *flags)


def test_accuracy_that_is_not_measured_cannot_be_monitored(small: list[str]) -> None:
    flags = ["--model.val_generations=0", "--early_stopping.monitor=val/accuracy"]
    assert "early_stopping.monitor 'val/accuracy' is unknown" in refused(*small, STEPS, *flags)


class UserMetric(Callback):
    """User-defined callback that logs a metric."""

    def on_validation_epoch_end(self, trainer: object, pl_module: object) -> None:
        self.log("mine", 1.0)


def test_metrics_of_user_callbacks_can_be_monitored(small: list[str]) -> None:
    flags = [f"--trainer.callbacks={__name__}.UserMetric", "--early_stopping.monitor=mine"]
    flags += ["--early_stopping.patience=1", "--trainer.limit_train_batches=1"]
    fit(*small, "--trainer.max_epochs=4", *flags)
    assert last_step() == 2  # the constant does not fall at the second validation


def test_a_timer_ends_a_fit(small: list[str]) -> None:
    flags = ["--trainer.callbacks=Timer", "--trainer.callbacks.duration=00:00:00:00"]
    fit(*small, "--trainer.max_epochs=3", *flags)
    assert not Path("run/checkpoints").exists()  # no time, no step


def callbacks_of(*flags: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a fit, and return the names of the user's callbacks that its trainer gets."""
    names: list[str] = []
    monkeypatch.setattr(
        session, "check_callbacks", lambda given: names.extend(type(callback).__name__ for callback in given)
    )
    fit(*flags, STEPS)
    return names


CALLBACKS = {
    "two flags": (
        ["--trainer.callbacks", "LearningRateMonitor", "--trainer.callbacks", "Timer"],
        ["LearningRateMonitor", "Timer"],
    ),
    "a file and a flag": (["-c", "one.yaml", "--trainer.callbacks=Timer"], ["LearningRateMonitor", "Timer"]),
    "two files": (["-c", "one.yaml", "-c", "two.yaml"], ["LearningRateMonitor", "DeviceStatsMonitor"]),
    "the same twice": (["-c", "one.yaml", "-c", "one.yaml"], ["LearningRateMonitor"]),
    "a list": (["--trainer.callbacks=[Timer,ModelSummary]"], ["Timer", "ModelSummary"]),
    "with options": (
        [
            "--trainer.callbacks=Timer",
            "--trainer.callbacks=EarlyStopping",
            "--trainer.callbacks.monitor=val/loss",
        ],
        ["Timer", "EarlyStopping"],
    ),
    "taken back": (["-c", "one.yaml", "--trainer.callbacks=null"], []),
}


@pytest.mark.parametrize(("flags", "expected"), CALLBACKS.values(), ids=CALLBACKS)
def test_several_callbacks_are_all_used(
    flags: list[str], expected: list[str], small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, callback in (("one", "LearningRateMonitor"), ("two", "DeviceStatsMonitor")):
        values = {"trainer": {"callbacks": [{"class_path": callback}]}}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert callbacks_of(*small, *flags, monkeypatch=monkeypatch) == expected


@pytest.mark.parametrize("name", ["DPC", "callbacks.dpc.DPC"])
def test_promptstage_callbacks_have_short_names_and_are_given_once(name: str, small: list[str]) -> None:
    twice = [f"--trainer.callbacks={name}", "--trainer.callbacks=DPC", "--trainer.callbacks.mode=all"]
    assert refused(*small, STEPS, *twice) == "error: trainer.callbacks: DPC is given twice"


def test_a_test_ignores_user_checkpoints_of_a_fit(small: list[str]) -> None:
    fit(*small, STEPS, "--trainer.callbacks=ModelCheckpoint")
    outcome = call("test", "-c", "run/config.yaml", "--ckpt_path=run")
    assert outcome.code == 0, outcome.err
    assert {name for name in files() if "test/" in name and ".ckpt" in name} == set()
    assert len(Path("run/test/results.jsonl").read_text(encoding="utf-8").splitlines()) == 6

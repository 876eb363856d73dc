"""Everyday options of Lightning: each has its effect, or is refused before any work."""

import os
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch.callbacks as lightning_callbacks
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

import cli
from command_line.user_callbacks import ACCURACY, TRAIN_METRICS, UNSUPPORTED
from tests.tiny_folder import QUIET, Outcome, call

STEPS = "--trainer.max_steps=2"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def small(common: list[str]) -> list[str]:
    """Return flags of a fit with several batches in every split."""
    return [*common, "--data.eval_batch_size=2", "--data.validation_size=8", "--run_dir=run"]


def fit(*flags: str) -> Outcome:
    outcome = call("fit", *flags)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(*flags: str, command: str = "fit") -> str:
    """Check that a command is refused and leaves no files; return its error line."""
    before = sorted(Path().rglob("*"))
    outcome = call(command, *flags)
    assert outcome.code == 2, outcome.err
    (line,) = outcome.errors
    assert "Traceback" not in outcome.err
    assert sorted(Path().rglob("*")) == before
    return line


def files(folder: str = "run") -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("batches", ["true", "2"])
def test_fast_dev_run_trains_and_keeps_nothing(batches: str, small: list[str]) -> None:
    fit(*small, f"--trainer.fast_dev_run={batches}")
    assert not Path("run").exists()


@pytest.mark.parametrize("limit", ["overfit_batches", "limit_train_batches", "limit_val_batches"])
@pytest.mark.parametrize("value", ["1", "1.0"])
def test_one_batch_is_enough(limit: str, value: str, small: list[str]) -> None:
    fit(*small, STEPS, f"--trainer.{limit}={value}")
    assert {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "prompt.safetensors"} <= files()


@pytest.mark.parametrize(("value", "examples"), [("1", 2), ("2", 4), ("1.0", 6), ("0.5", 2), ("0", 0)])
def test_a_limit_is_a_number_of_batches_or_a_part(value: str, examples: int, small: list[str]) -> None:
    outcome = call("test", *small, f"--trainer.limit_test_batches={value}")
    assert outcome.code == 0, outcome.err
    results = Path("run/test/results.jsonl")
    assert (len(results.read_text(encoding="utf-8").splitlines()) if results.exists() else 0) == examples


def test_metrics_to_monitor_are_those_of_a_fit(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from callbacks.run_folder import RunFolder

    logged: set[str] = set()
    monkeypatch.setattr(
        RunFolder, "on_fit_end", lambda self, trainer, module: logged.update(trainer.callback_metrics)
    )
    fit(*small, STEPS)
    assert logged == {*TRAIN_METRICS, "val/loss", *ACCURACY}


def test_every_callback_of_lightning_is_supported_or_refused(small: list[str]) -> None:
    """A new one has to be looked at: names are those that were tried."""
    tried = {
        *("BasePredictionWriter", "Callback", "Checkpoint", "DeviceStatsMonitor", "EarlyStopping"),
        *(
            "LambdaCallback",
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
        ["LearningRateFinder"],
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
def test_own_checkpoints_are_beside_the_runs(options: list[str], own: set[str], small: list[str]) -> None:
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


def test_a_class_name_means_the_same_in_the_next_command(small: list[str]) -> None:
    for _ in range(2):
        fit(*small, STEPS, "--trainer.callbacks=ModelCheckpoint")


def test_own_early_stopping_replaces_the_default(small: list[str]) -> None:
    """Nothing falls by 100, so that the second validation ends the fit; the default waits for five more."""
    flags = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    flags += ["--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=100"]
    outcome = fit(*small, "--trainer.max_epochs=4", "--trainer.limit_train_batches=1", *flags)
    assert "note: trainer.callbacks: EarlyStopping replaces the run's early_stopping" in outcome.notes
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("name", ["RichProgressBar", "TQDMProgressBar"])
def test_own_progress_bar_replaces_the_default(name: str, small: list[str]) -> None:
    shown = [*small, "--trainer.enable_progress_bar=true", STEPS, f"--trainer.callbacks={name}"]
    fit(*shown)
    hidden = refused(*small, STEPS, f"--trainer.callbacks={name}")
    assert hidden == f"error: trainer.enable_progress_bar is false, but trainer.callbacks has a {name}"


def test_a_bar_is_not_drawn_among_answers(trained: Path) -> None:
    flags = ["--trainer.callbacks=TQDMProgressBar", "--trainer.enable_progress_bar=true"]
    line = refused(f"--ckpt_path={trained}", *flags, command="predict")
    assert "TQDMProgressBar draws on standard output, as the answers do: give --answers FILE" in line


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
@pytest.mark.parametrize("way", ["flag", "file"])
def test_a_logger_without_a_folder_takes_the_runs(logger: str, way: str, small: list[str]) -> None:
    Path("logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": {"class_path": logger}}}))
    fit(*small, STEPS, *([f"--trainer.logger={logger}"] if way == "flag" else ["-c", "logger.yaml"]))
    assert any(name.startswith("lightning_logs/version_0/") for name in files())
    assert {path.name for path in Path().iterdir()} == {"run", "logger.yaml"}


VALUES = [
    (
        "--early_stopping.monitor=val_loss",
        "early_stopping.monitor 'val_loss' is unknown: did you mean 'val/loss'?",
    ),
    ("--early_stopping.monitor=val/acc", "did you mean 'val/accuracy'?"),
    ("--early_stopping.monitor=val/accuracy", "early_stopping.mode must be max for monitor val/accuracy"),
    ("--trainer.val_check_interval=0", "trainer.val_check_interval must be > 0, got 0"),
    ("--trainer.devices=-1", "should be an int > 0"),
    ("--trainer.devices=[0]", "should be an int > 0"),
    ("--trainer.devices=0", "is not a valid input using cpu accelerator"),
    ("--trainer.accelerator=tpu", "torch_xla"),
    ("--trainer.accelerator=gpu", "No supported gpu backend found!"),
    ("--trainer.strategy=ddp_spawn", "trainer.strategy 'ddp_spawn' is unknown"),
    ("--trainer.strategy=ddp_notebook", "trainer.strategy 'ddp_notebook' is unknown"),
    ("--seed_everything=-1", "seed_everything must be between 0 and 4294967295, got -1"),
    ("--trainer.precision=transformer-engine", "trainer.precision must be one of 32-true, "),
    ("--trainer.logger=WandbLogger", "error: trainer.logger: WandbLogger: Requirement 'wandb"),
    ("--trainer.logger=MLFlowLogger", "error: trainer.logger: MLFlowLogger: Requirement 'mlflow"),
    ("--trainer.plugins=AsyncCheckpointIO", "trainer.plugins: AsyncCheckpointIO is not supported"),
    (
        "--trainer.plugins=HalfPrecision",
        "trainer.plugins: HalfPrecision is not supported: set --trainer.precision",
    ),
    ("--trainer.barebones=true", "trainer.barebones must be false"),
    ("--trainer.use_distributed_sampler=true", "trainer.use_distributed_sampler must be false"),
    ("--trainer.default_root_dir=x", "--run_dir sets the run folder"),
    ("--trainer.model_registry=x", "trainer.model_registry must be null"),
    ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be >= 1, got 0"),
    ("--trainer.min_steps=3", "trainer.min_steps must be <= trainer.max_steps (2), got 3"),
    (
        "--model.num_virtual_tokens=512",
        "num_virtual_tokens must be < 512, the number of positions of backbone",
    ),
    ("--trainer.callbacks=[DPC,DCP]", "did you mean callbacks.dpc.DPC?"),
    ("--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs is required"),
]


@pytest.mark.parametrize(("flag", "message"), VALUES, ids=[flag for flag, _ in VALUES])
def test_values_that_cannot_work_are_refused_before_any_work(
    flag: str, message: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules import base

    def loaded(*args: object) -> None:
        raise AssertionError("a backbone was loaded before the mistake was reported")

    monkeypatch.setattr(base, "Backbone", loaded)
    assert message in refused(*small, STEPS, flag)


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
def test_options_of_callbacks(callback: list[str], message: str, small: list[str]) -> None:
    name, *options = callback
    flags = [f"--trainer.callbacks.{option}" for option in options]
    assert message in refused(*small, STEPS, f"--trainer.callbacks={name}", *flags)


def test_accuracy_that_is_not_measured_cannot_be_monitored(small: list[str]) -> None:
    flags = ["--model.val_generations=0", "--early_stopping.monitor=val/accuracy"]
    assert "early_stopping.monitor 'val/accuracy' is unknown" in refused(*small, STEPS, *flags)


class LogsMine(Callback):
    """User-defined callback that logs a metric."""

    def on_validation_epoch_end(self, trainer: object, pl_module: object) -> None:
        self.log("mine", 1.0)


def test_metrics_of_own_callbacks_can_be_monitored(small: list[str]) -> None:
    fit(*small, STEPS, f"--trainer.callbacks={__name__}.LogsMine", "--early_stopping.monitor=mine")


def test_a_timer_ends_a_fit(small: list[str]) -> None:
    flags = ["--trainer.callbacks=Timer", "--trainer.callbacks.duration=00:00:00:00"]
    outcome = call("fit", *small, "--trainer.max_epochs=3", *flags)
    assert outcome.code == 0, outcome.err


def callbacks_of(*flags: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a fit, and return the names of the user's callbacks that its trainer gets."""
    from command_line import trainer

    names: list[str] = []
    monkeypatch.setattr(
        trainer, "check_callbacks", lambda given: names.extend(type(callback).__name__ for callback in given)
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
def test_one_of_ours_by_its_short_name_and_only_once(name: str, small: list[str]) -> None:
    twice = [f"--trainer.callbacks={name}", "--trainer.callbacks=DPC", "--trainer.callbacks.mode=all"]
    assert refused(*small, STEPS, *twice) == "error: trainer.callbacks: DPC is given twice"


def test_a_fits_configuration_is_one_for_test(trained: Path) -> None:
    """Options of fit are ignored with a note; a typo in a file stays a mistake."""
    outcome = call("test", "-c", trained / "config.yaml", f"--ckpt_path={trained}")
    assert outcome.code == 0, outcome.err
    (note,) = (line for line in outcome.notes if "config.yaml" in line)
    assert note.endswith(
        "config.yaml: options of other subcommands are ignored: early_stopping, save_every, run_dir"
    )
    assert (trained / "test-2" / "results.jsonl").is_file()
    Path("typo.yaml").write_text("early_stoping:\n  patience: 3\n", encoding="utf-8")
    line = refused("-c", "typo.yaml", f"--ckpt_path={trained}", command="test")
    assert "option early_stoping is unknown" in line


def test_own_checkpoints_of_a_fit_are_nothing_to_a_test(small: list[str]) -> None:
    fit(*small, STEPS, "--trainer.callbacks=ModelCheckpoint")
    outcome = call("test", "-c", "run/config.yaml", "--ckpt_path=run")
    assert outcome.code == 0, outcome.err


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch, small: list[str]) -> None:
    assert "Traceback" not in call("fit", *small, "--trainer.max_steps=-5").err
    monkeypatch.setenv("PROMPTSTAGE_DEBUG", "1")
    outcome = call("fit", *small, "--trainer.max_steps=-5")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.errors == ["error: trainer.max_steps must be >= -1, got -5"]


@pytest.mark.parametrize("where", ["module", "callback"])
def test_a_bug_of_ours_keeps_its_traceback(
    where: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is raised within Lightning's loop."""
    from callbacks.throughput import Throughput
    from lightning_modules.base import SoftPromptModule

    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("a bug")

    owner = {"module": (SoftPromptModule, "training_step"), "callback": (Throughput, "on_train_batch_start")}
    monkeypatch.setattr(*owner[where], broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["fit", *small, STEPS])

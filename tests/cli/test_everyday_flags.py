"""Everyday options of Lightning: each has its effect, or is refused before any work."""

import json
from pathlib import Path

import pytest
import yaml

from promptstage import cli
from tests.cli.commands import STEPS, files, fit, refused
from tests.tiny_folder import QUIET, call

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize("batches", ["true", "2"])
def test_fast_dev_run_trains_and_writes_nothing(batches: str, small: list[str]) -> None:
    fit(*small, f"--trainer.fast_dev_run={batches}")
    assert not Path("run").exists()
    Path("run").mkdir()
    Path("run/mine").touch()
    outcome = fit(*small, f"--trainer.fast_dev_run={batches}")
    assert outcome.notes == []  # none names a folder that is removed
    assert [str(path) for path in Path().rglob("*")] == ["run", "run/mine"]


def test_an_error_is_the_only_line_if_the_folder_exists(small: list[str]) -> None:
    Path("run").mkdir()
    Path("run/mine").touch()
    line = refused(*small, STEPS, "--model.num_virtual_tokens=500", notes=[])
    assert "reduce num_virtual_tokens by 25 or use a backbone with more positions" in line
    assert fit(*small, STEPS).notes == [
        "note: run already exists and stays unchanged: writing to run-2 instead"
    ]


@pytest.mark.parametrize("limit", ["overfit_batches", "limit_train_batches", "limit_val_batches"])
@pytest.mark.parametrize("value", ["1", "1.0"])
def test_one_batch_is_enough(limit: str, value: str, small: list[str]) -> None:
    fit(*small, STEPS, f"--trainer.{limit}={value}")
    assert {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "prompt.safetensors"} <= files()


@pytest.mark.parametrize(("value", "examples"), [("1", 2), ("2", 4), ("1.0", 6), ("0.5", 2)])
def test_a_limit_is_a_number_of_batches_or_a_share(value: str, examples: int, small: list[str]) -> None:
    outcome = call("test", *small, f"--trainer.limit_test_batches={value}")
    assert outcome.code == 0, outcome.err
    results = Path("run/test/results.jsonl")
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    ids = [f"letter_reversal/test/{i}" for i in range(examples)]  # the first ones, not the longest
    assert [json.loads(line)["id"] for line in lines] == ids
    partial = f"(the first {examples} of 6 questions: a partial evaluation)"
    assert (partial in outcome.out) == (0 < examples < 6)
    if lines:
        regraded = call("grade", "run")
        assert f"results.jsonl: {examples}{' of 6 questions' if examples < 6 else ''}\n" in regraded.out


def test_a_limit_of_validation_uses_the_first_questions(small: list[str]) -> None:
    outcome = call("validate", *small, "--trainer.limit_val_batches=2")
    assert outcome.code == 0, outcome.err
    lines = Path("run/validate/results.jsonl").read_text(encoding="utf-8").splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert ids == [f"letter_reversal/validation/{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("logger", "folder"), [("CSVLogger", "lightning_logs/version_0"), ("TensorBoardLogger", "tensorboard")]
)
@pytest.mark.parametrize("way", ["flag", "file"])
def test_a_logger_without_a_folder_uses_the_run_folder(
    logger: str, folder: str, way: str, small: list[str]
) -> None:
    Path("logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": {"class_path": logger}}}))
    fit(*small, STEPS, *([f"--trainer.logger={logger}"] if way == "flag" else ["-c", "logger.yaml"]))
    outcome = call("test", *QUIET, "--ckpt_path=run", f"--trainer.logger={logger}")
    assert outcome.code == 0, outcome.err
    logged = [name for name in files() if "lightning_logs" in name or "tensorboard" in name]
    assert {name.partition(folder)[0] for name in logged} == {"", "test/"}
    assert all(folder in name for name in logged)
    assert {path.name for path in Path().iterdir()} == {"run", "logger.yaml"}


CSV = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=mine"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (CSV, {"mine"}),
        (["--trainer.logger.save_dir=other"], {"mine", "other"}),
        (["--trainer.logger=false"], {"mine"}),
    ],
    ids=["the same again", "another folder", "no logger"],
)
def test_output_paths_on_the_command_line_override_files(
    typed: list[str], expected: set[str], small: list[str]
) -> None:
    fit(*small, STEPS, *CSV)
    assert (
        "run/config.yaml: trainer.logger.save_dir sets where output goes, which a file may not: give "
        "--trainer.logger CSVLogger --trainer.logger.save_dir mine on the command line, too"
    ) in refused("-c", "run/config.yaml")
    before = {str(path) for path in Path("mine").rglob("*.csv")}
    fit("-c", "run/config.yaml", *typed)
    assert {path.name for path in Path().iterdir()} == {"run", "run-2", *expected}
    again = {str(path) for path in Path("mine").rglob("*.csv")}
    assert len(again - before) == (typed == CSV)


def test_a_callback_on_the_command_line_overrides_files(small: list[str]) -> None:
    own = ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.dirpath=mine"]
    fit(*small, STEPS, *own)
    timer = ["--trainer.callbacks=Timer", "--trainer.callbacks.duration=00:01:00:00"]
    assert "trainer.callbacks.dirpath sets where output goes" in refused("-c", "run/config.yaml", *timer)
    fit("-c", "run/config.yaml", own[0], "--trainer.callbacks.dirpath=other")
    assert {path.name for path in Path("other").iterdir()} == {"epoch=0-step=2.ckpt"}
    assert len(list(Path("mine").iterdir())) == 1
    assert {path.name for path in Path("run-2/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


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
    ("--trainer.logger=WandbLogger", "error: trainer.logger: WandbLogger cannot log in (no API key): run"),
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
    ("--trainer.callbacks=[DPC,DCP]", "did you mean DPC?"),
    ("--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs is required"),
]


@pytest.mark.parametrize(("flag", "message"), VALUES, ids=[flag for flag, _ in VALUES])
def test_unusable_values_are_rejected_before_loading(
    flag: str, message: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptstage.lightning_modules.backbone.model import Backbone

    def loaded(*args: object) -> None:
        raise AssertionError("a backbone was loaded before the mistake was reported")

    monkeypatch.setattr(Backbone, "__init__", loaded)
    assert message in refused(*small, STEPS, flag)


def test_the_configuration_of_a_fit_is_valid_for_test(trained: Path) -> None:
    """Options of fit are ignored with a note; a typo in a file is an error."""
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


def test_a_debug_variable_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, small: list[str]) -> None:
    assert "Traceback" not in call("fit", *small, "--trainer.max_steps=-5").err
    monkeypatch.setenv("PROMPTSTAGE_DEBUG", "1")
    outcome = call("fit", *small, "--trainer.max_steps=-5")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.errors == ["error: trainer.max_steps must be >= -1, got -5"]


@pytest.mark.parametrize("where", ["module", "callback"])
def test_a_bug_shows_its_traceback(where: str, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it is raised within Lightning's loop."""
    from promptstage.callbacks.run.throughput import Throughput
    from promptstage.lightning_modules.base import SoftPromptModule

    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("a bug")

    owner = {"module": (SoftPromptModule, "training_step"), "callback": (Throughput, "on_train_batch_start")}
    monkeypatch.setattr(*owner[where], broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["fit", *small, STEPS])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_whose_package_is_missing(
    name: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing:
        def __bool__(self) -> bool:
            return False

        def __str__(self) -> str:
            return f"Requirement '{name}>=1' not met"

    logger = {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}[name]
    monkeypatch.setattr(f"lightning.pytorch.loggers.{name}._{name.upper()}_AVAILABLE", Missing())
    message = refused(*small, STEPS, f"--trainer.logger={logger}")
    assert f"error: trainer.logger: {logger}: Requirement '{name}>=1' not met" in message

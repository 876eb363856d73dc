"""TensorBoard, CSV, W&B and MLflow get the same scalars, figures, texts and hyperparameters."""

import json
import os
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from promptstage import cli
from promptstage.composition.loggers import place_loggers
from tests import logged
from tests.forked import run
from tests.tiny_folder import QUIET, call, save_tiny_backbone

LOGGERS = ["--trainer.logger=TensorBoardLogger", "--trainer.logger+=CSVLogger"]
LOGGERS += ["--trainer.logger+=WandbLogger", "--trainer.logger.offline=true"]
LOGGERS += ["--trainer.logger+=MLFlowLogger"]
FIT = ["--model=DHAM", "--model.num_virtual_tokens=4", "--model.num_stages=2", "--model.search.examples=12"]
FIT += ["--model.search.resamples=10", "--data=Generated", "--data.task=letter_reversal"]
FIT += ["--data.train_size=24", "--data.validation_size=6", "--data.test_size=6", "--data.max_new_tokens=8"]
SALIENCY = "--trainer.callbacks=SaliencyDiagnostics"
DPC = ["--trainer.callbacks=DPC", "--trainer.callbacks.mode=all"]


def in_folder(arguments: list[str]) -> int:
    """Run a command in the folder that its first argument names: MLflow's database is in it."""
    os.chdir(arguments[0])
    return cli.main(arguments[1:])


def ids(folder: Path) -> dict[str, str]:
    rows = json.loads((folder / "loggers.json").read_text(encoding="utf-8"))
    return {row["logger"]: row["id"] for row in rows}


def contents(folder: Path) -> dict[str, logged.Logged]:
    """Read what each of the four loggers has of a command."""
    uri = f"sqlite:///{folder.parents[len(folder.parts) - folder.parts.index('run') - 1] / 'mlflow.db'}"
    (offline,) = folder.glob(f"wandb/offline-run-*-{ids(folder)['WandbLogger']}/*.wandb")
    return {
        "TensorBoard": logged.tensorboard(folder),
        "CSV": logged.csv_files(folder),
        "W&B": logged.wandb(offline),
        "MLflow": logged.mlflow(ids(folder)["MLFlowLogger"], uri),
    }


@pytest.mark.slow
def test_all_loggers_have_the_same(tmp_path: Path) -> None:
    backbone = f"--backbone.name={save_tiny_backbone(tmp_path / 'backbone')}"

    def succeed(*arguments: object) -> None:
        done = run(tmp_path, *arguments, *QUIET, *LOGGERS, program=in_folder)
        assert done.returncode == 0, done.stdout + done.stderr

    every = "--trainer.callbacks.every_n_steps=2"
    succeed("fit", *FIT, backbone, "--trainer.max_steps=4", "--run_dir=run", SALIENCY, every)
    succeed("test", "--ckpt_path=run", SALIENCY, *DPC)
    for folder, figures, texts in (
        (tmp_path / "run", 5, {"val/samples", "words"}),
        (tmp_path / "run" / "test", 10, {"test/samples", "dpc/before_after"}),
    ):
        own = contents(folder)
        expected = own["TensorBoard"]
        assert len(expected.figures) == figures
        assert expected.texts == texts
        assert ("val/loss", 4) in expected.scalars or ("test/accuracy", 4) in expected.scalars
        for name, other in own.items():
            assert other.figures == expected.figures, name
            assert other.texts == expected.texts, name
            assert other.scalars == pytest.approx(expected.scalars, rel=1e-6, nan_ok=True), name
            assert other.hyperparameters["Method"] == "DHAM", name
            assert other.hyperparameters.keys() >= expected.hyperparameters.keys(), name

    # A resumed fit continues the runs of W&B and MLflow.
    before = ids(tmp_path / "run")
    succeed("fit", "--ckpt_path=run", "--trainer.max_steps=6")
    assert ids(tmp_path / "run") == before
    offline = sorted((tmp_path / "run").glob(f"wandb/offline-run-*-{before['WandbLogger']}/*.wandb"))
    assert len(offline) == 2
    assert ("val/loss", 6) in logged.wandb(offline[1]).scalars
    steps = logged.mlflow(before["MLFlowLogger"], f"sqlite:///{tmp_path / 'mlflow.db'}").scalars
    assert {("val/loss", 4), ("val/loss", 6)} <= steps.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ('[{"logger": "WandbLogger"}]', "id"),
        ('[{"logger": "WandbLogger", "id": "../../x"}]', "must be of letters, digits, '-' and '_'"),
    ],
)
def test_a_damaged_list_of_loggers_is_one_line(content: str, message: str, trained: Path) -> None:
    (trained / "loggers.json").write_text(content, encoding="utf-8")
    outcome = call("fit", *QUIET, "--ckpt_path=run", "--trainer.max_steps=5", "--trainer.logger=CSVLogger")
    assert outcome.code == 2, outcome.err
    (error,) = outcome.errors
    assert "loggers" in error
    assert message in error


def test_a_logger_without_figures_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Remote(DummyLogger):
        pass

    with caplog.at_level("INFO"):
        place_loggers([Remote()], tmp_path)
    assert "Remote logs no figures and no text" in caplog.text
    assert L.Trainer(logger=[Remote()], accelerator="cpu").loggers

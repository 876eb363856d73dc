"""Tests that a resumed run is trained on exactly the batches of an uninterrupted one."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from promptstage.datamodules import GSM8K
from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError
from tests.unit.data.connected import connected
from tests.unit.data.rows import WriteRows, gsm8k_rows

EPOCHS = 3
Seen = list[tuple[int, list[str]]]


class Killed(Exception):
    """Simulated end of a process."""


class Recorder(L.LightningModule):
    """Module that records the batch number and the example ids of every training batch, and can be killed."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: Seen = []
        self.die_at = die_at

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if len(self.seen) == self.die_at:
            raise Killed
        self.seen.append((batch_idx, [example.id for example in batch.examples]))
        return self.weight * batch.gold.input_ids.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("loss", self.weight, batch_size=len(batch))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seen"] = len(self.seen)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-9)


class SaveAlways(Checkpoint):
    """Callback that saves a checkpoint after every batch, validation and epoch, in Lightning's hook order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _save(self, trainer: L.Trainer, hook: str) -> None:
        if not trainer.sanity_checking:
            number = len(list(self.folder.glob("*.ckpt")))
            trainer.save_checkpoint(self.folder / f"{number:03}-{hook}.ckpt")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._save(trainer, "batch")

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._save(trainer, "epoch")


def run(data: GSM8K, module: Recorder, resume: Path | None = None, **options: Any) -> Seen:
    options = {"max_epochs": EPOCHS, "enable_checkpointing": "callbacks" in options, **options}
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, **options
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    return module.seen


@pytest.fixture
def folder(write_rows: WriteRows) -> str:
    return write_rows(train=gsm8k_rows(25))


def make(backbone: BackboneConfig, folder: str, **options: Any) -> GSM8K:
    return connected(GSM8K(source=folder, **{"batch_size": 4, "validation_size": 2, **options}), backbone)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"accumulate_grad_batches": 2},
    {"val_check_interval": 2},
    {"val_check_interval": 3, "accumulate_grad_batches": 2, "num_sanity_val_steps": 0},
    {"val_check_interval": 4, "check_val_every_n_epoch": None},
    {"max_steps": 15, "max_epochs": -1},
    {"limit_val_batches": 0},
    {"limit_train_batches": 4},
    {"reload_dataloaders_every_n_epochs": 1},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_checkpoint_resumes_in_the_same_order(
    backbone: BackboneConfig, folder: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole = run(make(backbone, folder), Recorder(), callbacks=[SaveAlways(tmp_path)], **options)
    assert len({str(ids) for _, ids in whole}) == len(whole)
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) > len(whole)
    for checkpoint in checkpoints:
        done = torch.load(checkpoint, weights_only=False)["seen"]
        assert run(make(backbone, folder), Recorder(), checkpoint, **options) == whole[done:], checkpoint.name


@pytest.mark.filterwarnings("ignore")
def test_batches_of_tokens_resume_in_the_same_order(
    backbone: BackboneConfig, folder: str, tmp_path: Path
) -> None:
    data = make(backbone, folder, batch_tokens=600)
    whole = run(data, Recorder(), callbacks=[SaveAlways(tmp_path)], accumulate_grad_batches=2)
    assert len({len(ids) for _, ids in whole}) > 1
    for checkpoint in sorted(tmp_path.glob("*.ckpt"))[::3]:
        done = torch.load(checkpoint, weights_only=False)["seen"]
        data = make(backbone, folder, batch_tokens=600)
        seen = run(data, Recorder(), checkpoint, accumulate_grad_batches=2)
        assert seen == whole[done:], checkpoint.name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [{"max_epochs": EPOCHS}, {"max_steps": 9, "max_epochs": -1}], ids=str)
def test_repeatedly_killed_runs_resume_in_the_same_order(
    backbone: BackboneConfig, folder: str, tmp_path: Path, limit: dict[str, int]
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "val_check_interval": 4, **limit}
    whole = run(make(backbone, folder), Recorder(), **options)
    seen: Seen = []
    last = None
    for life in range(20):
        folder_of_life = tmp_path / str(life)
        saver = ModelCheckpoint(folder_of_life, every_n_train_steps=1, save_top_k=-1)
        module = Recorder(die_at=4)
        try:
            run(make(backbone, folder, num_workers=life % 2), module, last, callbacks=[saver], **options)
        except Killed:
            last = Path(saver.best_model_path)
            seen += module.seen[: torch.load(last, weights_only=False)["seen"]]
        else:
            seen += module.seen
            break
    assert life > 2
    assert seen == whole


@pytest.mark.filterwarnings("ignore")
def test_resuming_within_an_epoch_with_different_data_is_rejected(
    backbone: BackboneConfig, folder: str, tmp_path: Path
) -> None:
    run(make(backbone, folder), Recorder(), callbacks=[SaveAlways(tmp_path)], max_epochs=1)
    checkpoint = tmp_path / "002-batch.ckpt"
    for options, message in (
        ({"batch_size": 2}, "batch_size x processes must be 4, got 2"),
        ({"batch_size": 16}, "batch_size x processes must be 4, got 16"),  # done: both of its batches
        ({"batch_tokens": 300}, "batch_tokens x processes must be None, got 300"),
        ({"seed": 1}, "seed must be 0, got 1"),
        ({"train_size": 20}, "examples must be 23, got 20"),
        ({"template": "cot"}, "checksum of their lengths"),
    ):
        with pytest.raises(UserError, match=f"cannot resume within an epoch on other .*: {message}"):
            run(make(backbone, folder, **options), Recorder(), checkpoint)
    (end,) = tmp_path.glob("*-epoch.ckpt")
    assert run(make(backbone, folder, batch_size=2), Recorder(), end, max_epochs=2)


@pytest.mark.filterwarnings("ignore")
def test_overfit_batches_are_the_same_in_every_epoch(backbone: BackboneConfig, folder: str) -> None:
    seen = run(make(backbone, folder), Recorder(), overfit_batches=2)
    assert len(seen) == 2 * EPOCHS
    assert seen[:2] == seen[2:4] == seen[4:]


def test_loading_does_not_change_the_global_random_state(backbone: BackboneConfig, folder: str) -> None:
    data = make(backbone, folder)
    data.setup("fit")
    before = torch.get_rng_state()
    assert len(list(data.train_dataloader())) == len(data.train_dataloader()) == 6
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore")
def test_batches_are_accepted_in_double_precision(backbone: BackboneConfig, folder: str) -> None:
    assert run(make(backbone, folder), Recorder(), precision="64-true", max_epochs=1)

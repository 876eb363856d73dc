"""Runs on the embedded backbone through the Python API, as users make them."""

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

import promptstage as ps
from benchmarks.gpu.sections import Bench

VIRTUAL_TOKENS = 16
BATCH_SIZE = 16
LEARNING_RATE = 0.03
TRAIN_SIZE = 320


@dataclass(frozen=True)
class Trained:
    """Finished fit.

    Attributes:
        run: its run folder.
        losses: training loss of each step.
        validation: last validation loss.
        tensors: trained parameters, on the CPU.
    """

    run: ps.Run
    losses: list[float]
    validation: float
    tensors: dict[str, Tensor]


class LossRecord(L.Callback):
    """Losses of a fit, in memory."""

    def __init__(self) -> None:
        self.training: list[float] = []
        self.validation: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.training.append(float(trainer.callback_metrics["train/loss"]))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validation.append(float(trainer.callback_metrics["val/loss"]))


def trainer_options(device: torch.device, precision: str = "32-true") -> dict[str, Any]:
    """Return options of Lightning's trainer for one device."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    return {
        "accelerator": accelerator,
        "devices": 1,
        "precision": precision,
        "enable_progress_bar": False,
    }


def questions(bench: Bench) -> ps.Generated:
    """Return the data set of additions."""
    return ps.Generated(
        task="addition",
        batch_size=BATCH_SIZE,
        train_size=TRAIN_SIZE,
        validation_size=bench.sizes.questions,
        test_size=bench.sizes.questions,
        max_new_tokens=bench.sizes.new_tokens,
    )


def fit(
    bench: Bench, name: str, device: torch.device, precision: str = "32-true", **backbone: Any
) -> Trained:
    """Train a prompt on the embedded backbone.

    Args:
        name: folder of the run below the bench's.
        backbone: further settings of the backbone, such as ``dtype="bfloat16"``.
    """
    prompt = ps.PromptTuning(ps.Backbone("embedded", **backbone), num_virtual_tokens=VIRTUAL_TOKENS)
    record = LossRecord()
    run = ps.fit(
        prompt,
        questions(bench),
        folder=bench.folder / name,
        lr=LEARNING_RATE,
        max_steps=bench.sizes.steps,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        callbacks=[record],
        **trainer_options(device, precision),
    )
    tensors = {key: value.detach().cpu().clone() for key, value in prompt.state_dict().items()}
    return Trained(run, record.training, record.validation[-1], tensors)


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Compute the norm of the difference divided by that of ``expected``, in float64."""
    actual, expected = actual.double(), expected.double()
    return float((actual - expected).norm() / expected.norm())

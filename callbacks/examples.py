"""Helpers of callbacks: the data module of a run, gathering over ranks, common checks."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import lightning as L
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn

from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.distribution import needs_whole_backbone
from promptstage.utilities.errors import UserError

# Split of each command.
SPLITS: dict[str, str] = {
    TrainerFn.FITTING: "validation",
    TrainerFn.VALIDATING: "validation",
    TrainerFn.TESTING: "test",
    TrainerFn.PREDICTING: "predict",
}


class OfExample(Protocol):
    """Item that belongs to one example."""

    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=OfExample)


def data_of(trainer: L.Trainer) -> ReasoningDataModule:
    """Return the data module of ``trainer``."""
    return trainer.datamodule  # type: ignore[attr-defined]  # set by a connector


def gather_by_id(items: Sequence[Item], ids: Sequence[str]) -> list[Item]:
    """Gather the items of all ranks in the order of ``ids``, each example once; ids may lack one."""
    parts: list[Any] = [list(items)]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, list(items))
    by_id = {item.id: item for part in parts for item in part}
    return [by_id[name] for name in ids if name in by_id]


def check_gradients(trainer: L.Trainer, what: str) -> None:
    """Check that gradients can be computed.

    Raises:
        UserError: if the loop that starts runs in inference mode, or the backbone is sharded over ranks.
    """
    loops: dict[str, Any] = {
        TrainerFn.VALIDATING: trainer.validate_loop,
        TrainerFn.TESTING: trainer.test_loop,
        TrainerFn.PREDICTING: trainer.predict_loop,
    }
    loop = loops.get(trainer.state.fn or "")
    if loop is not None and loop.inference_mode:
        raise UserError(
            f"{what} needs gradients, which inference mode forbids: --trainer.inference_mode false"
        )
    needs_whole_backbone(what, trainer)

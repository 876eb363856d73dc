"""Decoder blocks spread over processes (FSDP): each holds its part, and a whole block only while it runs.

A block runs on all processes of the group or on none, for each gives its part of the weights. Processes
that have no work left therefore go along with those that have.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.prefix import LayerPrefix


class Whole:
    """What a process does for others that run the same backbone: nothing, where each has all of it."""

    def begin_pass(self) -> None:
        """Before each pass of which processes run different numbers: those that are done go along."""

    def go_along(self) -> None:
        """Run the decoder blocks for nothing until no process of the group needs their weights."""

    def idle_pass(self) -> None:
        """One pass of no effect, beside one of another process."""


class Shards(Whole):
    """The processes among which a backbone's decoder blocks are divided."""

    def __init__(
        self, base_model: nn.Module, layers: Sequence[nn.Module], processes: int, device: str
    ) -> None:
        """Divide the blocks' frozen parameters among groups of ``processes`` neighbouring ranks.

        Embeddings, output matrix and all that is trained stay whole on each process.

        Args:
            device: type of the devices that the blocks go to, ``cpu`` or ``cuda``.
        """
        sizes = (dist.get_world_size() // processes, processes)
        mesh = init_device_mesh(device, sizes, mesh_dim_names=("copies", "parts"))["parts"]
        trained = {parameter for parameter in base_model.parameters() if parameter.requires_grad}
        for layer in layers:
            fully_shard(layer, mesh=mesh, ignored_params=trained)
        # The model itself has no part; it makes the blocks fetch their weights ahead.
        fully_shard(base_model, mesh=mesh, ignored_params=set(base_model.parameters()))
        self._base_model = base_model
        self._group = mesh.get_group()
        self._device = mesh.device_type

    def begin_pass(self) -> None:
        self._any_works(True)

    def go_along(self) -> None:
        while self._any_works(False):
            self.idle_pass()

    @torch.no_grad()
    def idle_pass(self) -> None:
        ids = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
        self._base_model(input_ids=ids, use_cache=False, context=AttentionContext())

    def _any_works(self, works: bool) -> bool:
        """Whether this or any other process of the group is about to run the blocks."""
        works_somewhere = torch.tensor(works, dtype=torch.int32, device=self._device)
        dist.all_reduce(works_somewhere, dist.ReduceOp.MAX, self._group)
        return bool(works_somewhere)


def fetch_before_backward(layers: Sequence[nn.Module], recorded: Sequence[LayerPrefix]) -> None:
    """Have blocks fetch their weights when a gradient reaches them through keys and values alone.

    FSDP waits for the gradient of a block's output, which the last block's keys and values come before.
    """
    for layer, parts in zip(layers, recorded, strict=True):
        for part in parts:
            if isinstance(layer, FSDPModule) and part.requires_grad:
                part.register_hook(partial(_fetch, layer))


def _fetch(layer: FSDPModule, gradient: Tensor) -> None:
    layer.unshard()

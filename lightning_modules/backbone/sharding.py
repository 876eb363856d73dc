"""Decoder blocks sharded over ranks (FSDP): a rank stores its shard, and a whole block only while it runs.

A block runs on all ranks of the group or on none, since each contributes its shard of the weights. Ranks
without work left therefore join the forward passes of the others.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.prefix import LayerState


class Unsharded:
    """A backbone that each rank has in full: nothing to do for other ranks."""

    def begin_pass(self) -> None:
        """Announce a forward pass, of which ranks run different numbers: idle ranks join it."""

    def join_remaining_passes(self) -> None:
        """Run dummy forward passes until no rank of the group has one left."""

    def idle_pass(self) -> None:
        """Run a dummy forward pass beside that of another rank."""


class Shards(Unsharded):
    """A group of ranks over which a backbone's decoder blocks are sharded."""

    def __init__(self, base_model: nn.Module, layers: Sequence[nn.Module], ranks: int, device: str) -> None:
        """Shard the blocks' frozen parameters over groups of ``ranks`` consecutive ranks.

        Embeddings, output matrix and everything trained are replicated on each rank.

        Args:
            device: type of the devices that hold the blocks, ``cpu`` or ``cuda``.
        """
        sizes = (dist.get_world_size() // ranks, ranks)
        mesh = init_device_mesh(device, sizes, mesh_dim_names=("copies", "parts"))["parts"]
        trained = {parameter for parameter in base_model.parameters() if parameter.requires_grad}
        for layer in layers:
            fully_shard(layer, mesh=mesh, ignored_params=trained)
        # The model itself has no shard; wrapping it makes the blocks prefetch their weights.
        fully_shard(base_model, mesh=mesh, ignored_params=set(base_model.parameters()))
        self._base_model = base_model
        self._group = mesh.get_group()
        self._device = mesh.device_type

    def begin_pass(self) -> None:
        self._any_works(True)

    def join_remaining_passes(self) -> None:
        while self._any_works(False):
            self.idle_pass()

    @torch.no_grad()
    def idle_pass(self) -> None:
        ids = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
        self._base_model(input_ids=ids, use_cache=False, context=AttentionContext())

    def _any_works(self, works: bool) -> bool:
        """Return whether any rank of the group is about to run the blocks."""
        works_somewhere = torch.tensor(works, dtype=torch.int32, device=self._device)
        dist.all_reduce(works_somewhere, dist.ReduceOp.MAX, self._group)
        return bool(works_somewhere)


def unshard_before_backward(layers: Sequence[nn.Module], states: Sequence[LayerState]) -> None:
    """Unshard a block as soon as a gradient reaches its keys, values or recurrent state.

    FSDP waits for the gradient of a block's output, which the last block's state does not affect.
    """
    for layer, state in zip(layers, states, strict=True):
        for part in state.tensors():
            if isinstance(layer, FSDPModule) and part.requires_grad:
                part.register_hook(partial(_unshard, layer))


def _unshard(layer: FSDPModule, gradient: Tensor) -> None:
    layer.unshard()

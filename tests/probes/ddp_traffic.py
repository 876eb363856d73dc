"""A command that counts the bytes DDP sends: at the start, of buffers before each step, and of gradients."""

import json
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from promptstage import cli
from promptstage.lightning_modules.base import SoftPromptModule


def main(arguments: list[str]) -> int:
    """Run the command; rank 0 prints the bytes as JSON."""
    sent: dict[str, Any] = {"at the start": 0, "buffers": 0, "gradients": []}
    broadcast, construct = dist._broadcast_coalesced, DistributedDataParallel.__init__
    key = "at the start"

    def counted(group: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        sent[key] += sum(tensor.nbytes for tensor in tensors)
        return broadcast(group, tensors, *args, **kwargs)

    def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        if bucket.index() == 0:
            sent["gradients"].append(0)
        sent["gradients"][-1] += bucket.buffer().nbytes
        return allreduce_hook(state, bucket)

    def constructed(self: DistributedDataParallel, module: SoftPromptModule, **kwargs: Any) -> None:
        nonlocal key
        construct(self, module=module, **kwargs)
        self.register_comm_hook(None, hook)
        key = "buffers"

    dist._broadcast_coalesced = counted
    DistributedDataParallel.__init__ = constructed  # type: ignore[method-assign]
    code = cli.main(arguments)
    if dist.get_rank() == 0:
        print(json.dumps(sent), flush=True)
    return code

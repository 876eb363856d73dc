"""A command that prints how much of a sharded backbone each rank holds at the end of a step."""

import gc
import json
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from promptstage import cli
from promptstage.callbacks.run.throughput import Throughput


def count(self: Throughput, trainer: Any, module: Any, *args: Any) -> None:
    """Print numbers of float32 values as JSON; ``storage``: in all tensors that are alive."""
    parameters = list(module.backbone.parameters())
    parts = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    outside = sum(parameter.numel() for parameter in parameters if not isinstance(parameter, DTensor))
    alive = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() // 4
        for value in gc.get_objects()
        if isinstance(value, torch.Tensor) and not isinstance(value, DTensor) and value.dtype == torch.float32
    }
    counts = {
        "blocks": sum(part.numel() for part in parts),
        "outside": outside,
        "held": sum(part.to_local().numel() for part in parts) + outside,
        "storage": sum(alive.values()),
    }
    print(json.dumps(counts), flush=True)


def main(arguments: list[str]) -> int:
    """Run the command, with counts after each training step."""
    Throughput.on_train_batch_end = count  # type: ignore[method-assign]
    return cli.main(arguments)

"""Number of questions of an evaluation that the free memory has room for."""

from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info

from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.prompt_module import PromptModule

SHARE = 0.5  # of the free memory; activations need some, too
LARGEST = {"cpu": 64, "cuda": 128}  # more rows hardly generate more tokens per second
CGROUP = Path("/sys/fs/cgroup")


@torch.no_grad()
def choose_eval_batch_size(module: PromptModule) -> None:
    """Choose the data module's batch size of evaluation, if it is ``auto``; the same one on all ranks.

    A limit of batches keeps the default size, so that it selects the same questions on every machine.
    """
    trainer = module._trainer
    data: Any = getattr(trainer, "datamodule", None) if trainer else None
    if trainer is None or data is None or not data.automatic_eval_batch_size:
        return
    limits = [getattr(trainer, f"limit_{loop}_batches") for loop in ("val", "test", "predict")]
    if any(isinstance(limit, int) or limit < 1 for limit in limits):
        rank_zero_info(f"eval_batch_size: {data.eval_batch_size}, since a number of batches is limited")
        return
    device = trainer.strategy.root_device
    free = free_memory(device)
    if module.backbone.embedding.device.type != device.type:  # it is moved later
        free -= sum(part.numel() * part.element_size() for part in module.backbone.parameters())
    prefix = module.evaluation_prefix()
    lengths = [0] if prefix is None else [prefix.length(layer) for layer in range(len(prefix.layers))]
    columns = data.longest() + max(lengths)
    row = row_bytes(module.backbone, columns)
    size = batch_size(free, row, LARGEST.get(device.type, LARGEST["cuda"]))
    if dist.is_available() and dist.is_initialized():
        smallest = torch.tensor(size, device=device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
        size = int(smallest)
    data.eval_batch_size = size
    rank_zero_info(
        f"eval_batch_size: {size} (free memory {free / 2**30:.1f} GiB; {row / 2**20:.0f} MiB for a question "
        f"of {columns} tokens)"
    )


def batch_size(free: int, row: int, largest: int) -> int:
    """Return how many rows of ``row`` bytes a share of the free memory has room for.

    >>> batch_size(2**30, 2**24, 64), batch_size(2**36, 2**24, 64), batch_size(0, 2**24, 64)
    (32, 64, 1)
    """
    return min(max(int(free * SHARE) // row, 1), largest)


def row_bytes(backbone: FrozenModel, columns: int) -> int:
    """Compute the bytes of a row: keys and values of ``columns`` columns in all layers, and its logits.

    Keys and values count as those of the configuration's heads, more than what some models cache.
    """
    config = backbone.model.config.get_text_config()
    queries = max(backbone.num_heads, 1)
    heads = getattr(config, "num_key_value_heads", None) or queries
    width = getattr(config, "head_dim", None) or backbone.hidden_size // queries
    cached = 2 * len(backbone.attention_layers) * heads * width * columns * backbone.dtype.itemsize
    return cached + 2 * backbone.vocab_size * torch.float32.itemsize


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU, or of this machine or its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _group_memory())


def _group_memory() -> int:
    """Return the free bytes of the control group (version 2); a large number without a limit."""
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no such files, or "max"
        return 2**62
    return max(limit - used, 0)

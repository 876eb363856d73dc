"""A command that counts the weights FSDP gathers: bytes of whole blocks in the steps of a fit."""

import json
from typing import Any

import torch.distributed as dist
from torch.distributed.fsdp._fully_shard import _fsdp_param_group as torch_fsdp

from promptstage import cli
from promptstage.lightning_modules.base import SoftPromptModule


def main(arguments: list[str]) -> int:
    """Run the command; rank 0 prints the bytes of each step as JSON."""
    gathered: list[int] = []
    gather, step = torch_fsdp.foreach_all_gather, SoftPromptModule.training_step
    before_update = SoftPromptModule.on_before_optimizer_step

    def counted(*args: Any, **kwargs: Any) -> Any:
        result = gather(*args, **kwargs)
        assert result is not None
        gathered.append(result.all_gather_output.nbytes)
        return result

    def begun(self: SoftPromptModule, *args: Any) -> Any:
        gathered.clear()
        return step(self, *args)

    def ended(self: SoftPromptModule, optimizer: Any) -> None:
        blocks = sum(weight.numel() * 4 for layer in self.backbone.layers for weight in layer.parameters())
        if dist.get_rank() == 0:
            print(json.dumps({"gathered": sum(gathered), "blocks": blocks}), flush=True)
        before_update(self, optimizer)

    torch_fsdp.foreach_all_gather = counted
    SoftPromptModule.training_step = begun  # type: ignore[method-assign]
    SoftPromptModule.on_before_optimizer_step = ended  # type: ignore[method-assign]
    return cli.main(arguments)

"""``cli.py`` whose second process meets a NaN loss, or runs out of memory, in its sixth step."""

import math
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch
    import torch.distributed as dist

    from promptstage import cli
    from promptstage.lightning_modules.base import SoftPromptModule

    kind, *arguments = sys.argv[1:]
    original = SoftPromptModule.training_step

    def failing(self: SoftPromptModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = original(self, batch, batch_idx)
        if self.trainer.global_step != 5 or dist.get_rank() != 1:
            return loss
        if kind == "memory":
            torch.empty(2**60, dtype=torch.uint8)
        if kind == "loss":
            self._step_loss = math.nan
        return loss

    SoftPromptModule.training_step = failing  # type: ignore[method-assign]
    sys.exit(cli.main(arguments))

"""``cli.py`` that says how much of a sharded backbone each process holds at the end of a step."""

import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch
    from torch.distributed.tensor import DTensor

    from promptstage import cli
    from promptstage.callbacks.throughput import Throughput

    def count(self: Throughput, trainer: Any, module: Any, *args: Any) -> None:
        """Numbers of float32 values; ``storage``: in all tensors that are alive."""
        import gc

        parameters = list(module.backbone.parameters())
        parts = [one for one in parameters if isinstance(one, DTensor)]
        outside = sum(one.numel() for one in parameters if not isinstance(one, DTensor))
        alive = {
            one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() // 4
            for one in gc.get_objects()
            if isinstance(one, torch.Tensor) and not isinstance(one, DTensor) and one.dtype == torch.float32
        }
        said = {
            "blocks": sum(one.numel() for one in parts),
            "outside": outside,
            "held": sum(one.to_local().numel() for one in parts) + outside,
            "storage": sum(alive.values()),
        }
        print(json.dumps(said), flush=True)

    Throughput.on_train_batch_end = count  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[1:]))

"""A frozen backbone and a trained prompt on several processes."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from promptstage.lightning_modules.backbone.loading import Shard
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.sharding import Shards
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.errors import UserError


def distribute(module: PromptModule, trainer: L.Trainer | None) -> None:
    """Have each process keep the backbone to itself, or its part of it; only prompts are DDP's."""
    # DDP shall neither broadcast nor reduce what no process changes.
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in module.named_buffers() if name.startswith("backbone.")]
    module._ddp_params_and_buffers_to_ignore = frozen + buffers
    if trainer is None:
        return
    share_backbone(module.backbone, trainer)
    config = module.backbone_config
    if config.shard != "none" and shared_by(config.shard, trainer) == 1:
        rank_zero_info(
            f"backbone '{config.name}' is whole: --backbone.shard {config.shard} spreads it over several "
            "processes (--trainer.devices), and here is one"
        )


def share_backbone(backbone: Backbone, trainer: L.Trainer) -> None:
    """Divide the backbone among processes as its configuration says; once, however often it is called.

    Raises:
        UserError: when a process has loaded another backbone than the first one.
    """
    config, own = backbone.config, backbone.fingerprint
    first = trainer.strategy.broadcast(own)
    if not backbone.matches(first):
        raise UserError(
            f"backbone '{config.name}' of process {trainer.global_rank} is another one (fingerprint {own}) "
            f"than that of process 0 ({first})"
        )
    processes = shared_by(config.shard, trainer)
    if processes > 1 and not isinstance(backbone.shards, Shards):
        backbone.shard(processes, trainer.strategy.root_device.type)
        rank_zero_info(f"backbone '{config.name}': decoder blocks spread over {processes} processes")


def shared_by(shard: Shard, trainer: L.Trainer) -> int:
    """How many processes hold a backbone together."""
    return {"none": 1, "node": trainer.num_devices, "all": trainer.world_size}[shard]


def needs_whole_backbone(what: str, trainer: L.Trainer) -> None:
    """
    Raises:
        UserError: when the backbone is spread over processes.
    """
    module: Any = trainer.lightning_module
    shard = module.backbone_config.shard
    if shared_by(shard, trainer) > 1:
        raise UserError(f"{what} needs a whole backbone on each process: --backbone.shard none, not {shard}")

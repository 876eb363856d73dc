"""Frozen backbone and trained prompt on several ranks."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from promptstage.lightning_modules.backbone.loading import Shard
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.sharding import Shards
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.errors import UserError


def distribute(module: PromptModule, trainer: L.Trainer | None) -> None:
    """Exclude the backbone, or this rank's shard of it, from DDP, which then synchronizes prompts only."""
    # Nothing that no rank changes is broadcast or reduced.
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in module.named_buffers() if name.startswith("backbone.")]
    module._ddp_params_and_buffers_to_ignore = frozen + buffers
    if trainer is None:
        return
    share_backbone(module.backbone, trainer)
    config = module.backbone_config
    if config.shard != "none" and shared_by(config.shard, trainer) == 1:
        rank_zero_info(
            f"backbone '{config.name}' is not sharded: --backbone.shard {config.shard} needs several ranks "
            "(--trainer.devices), got 1"
        )


def share_backbone(backbone: Backbone, trainer: L.Trainer) -> None:
    """Shard the backbone over ranks according to its configuration; later calls change nothing.

    Raises:
        UserError: if a rank has loaded another backbone than the first rank.
    """
    config, own = backbone.config, backbone.fingerprint
    first = trainer.strategy.broadcast(own)
    if not backbone.matches(first):
        raise UserError(
            f"backbone '{config.name}' of rank {trainer.global_rank} (fingerprint {own}) differs from that "
            f"of rank 0 ({first})"
        )
    ranks = shared_by(config.shard, trainer)
    if ranks > 1 and not isinstance(backbone.shards, Shards):
        backbone.shard(ranks, trainer.strategy.root_device.type)
        rank_zero_info(f"backbone '{config.name}': decoder blocks sharded over {ranks} ranks")


def shared_by(shard: Shard, trainer: L.Trainer) -> int:
    """Return the number of ranks that a backbone is sharded over."""
    return {"none": 1, "node": trainer.num_devices, "all": trainer.world_size}[shard]


def needs_whole_backbone(feature: str, trainer: L.Trainer) -> None:
    """Check that the backbone is not sharded.

    Args:
        feature: name of what needs it, for the message.

    Raises:
        UserError: if it is sharded.
    """
    module: Any = trainer.lightning_module
    shard = module.backbone_config.shard
    if shared_by(shard, trainer) > 1:
        raise UserError(
            f"{feature} needs the whole backbone on each rank: --backbone.shard must be none, got {shard}"
        )

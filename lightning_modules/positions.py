"""Check of the number of virtual tokens against the backbone's positions."""

from typing import Protocol

from promptstage.lightning_modules.backbone.loading import BackboneConfig, context_length
from promptstage.utilities.errors import UserError


class _Module(Protocol):
    backbone_config: BackboneConfig


def check_virtual_tokens(module: _Module) -> None:
    """Check, before the backbone is loaded, that virtual tokens leave positions for text.

    Raises:
        UserError: if no position is left.
    """
    tokens = getattr(module, "num_virtual_tokens", 0)
    # Stages that replace each other share positions.
    if tokens and getattr(module, "mode", "accumulate") == "accumulate":
        limit = context_length(module.backbone_config)
        if limit is not None and tokens >= limit:
            raise UserError(
                f"num_virtual_tokens must be < {limit}, the number of positions of backbone "
                f"'{module.backbone_config.name}', got {tokens}"
            )

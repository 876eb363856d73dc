"""Soft prompts over a frozen causal language model.

The methods are imported on first use, so that the data side needs no more than the backbone's config.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.dham import DHAM
    from lightning_modules.lora import LoRA
    from lightning_modules.prefix_tuning import PrefixTuning
    from lightning_modules.pretrained import Pretrained
    from lightning_modules.prompt_tuning import PromptTuning

_MODULES = {
    "DHAM": "dham",
    "LoRA": "lora",
    "PrefixTuning": "prefix_tuning",
    "Pretrained": "pretrained",
    "PromptTuning": "prompt_tuning",
}
__all__ = ["DHAM", "LoRA", "PrefixTuning", "Pretrained", "PromptTuning"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

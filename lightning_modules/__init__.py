"""Soft prompts over a frozen causal language model.

The methods are imported on first use, so that data modules need only the backbone's configuration.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "AnchorReweighting": "anchor_reweighting",
    "DHAM": "dham",
    "FullFineTuning": "full_fine_tuning",
    "HardPrompt": "hard_prompt",
    "LoRA": "lora",
    "PrefixTuning": "prefix_tuning",
    "Pretrained": "pretrained",
    "PromptTuning": "prompt_tuning",
}
__all__ = list(_MODULES)  # the command line offers these


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

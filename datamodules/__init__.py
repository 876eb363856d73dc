"""Reasoning data sets as Lightning data modules.

Classes are imported on first use, so that ``datamodules.tasks`` and the command line's help do not load
Lightning.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "AQuA": "aqua",
    "ARC": "arc",
    "ASDiv": "asdiv",
    "Classification": "classification",
    "Custom": "custom",
    "GSM8K": "gsm8k",
    "GSMPlus": "gsmplus",
    "Generated": "generated",
    "MATH": "math",
    "MetaMathQA": "metamathqa",
    "Mixture": "mixture",
    "ProntoQA": "prontoqa",
    "SVAMP": "svamp",
    "Sequences": "sequences",
    "StrategyQA": "strategyqa",
    "WorldTree": "worldtree",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

"""Reasoning data sets as Lightning data modules.

Classes are imported on first use, so that ``datamodules.tasks`` and the command line's help do not load
Lightning.
"""

from importlib import import_module
from typing import Any

__all__ = ["ARC", "GSM8K", "MATH", "AQuA", "Custom", "Generated", "ProntoQA", "WorldTree"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name.lower()}"), name)

"""Soft prompts that make a frozen language model reason better, on PyTorch Lightning.

Names are imported on first use, so that ``import promptstage`` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptstage.callbacks.act import ACT as ACT
    from promptstage.callbacks.dpc import DPC as DPC
    from promptstage.callbacks.saliency import SaliencyDiagnostics as SaliencyDiagnostics
    from promptstage.datamodules.aqua import AQuA as AQuA
    from promptstage.datamodules.arc import ARC as ARC
    from promptstage.datamodules.generated import Generated as Generated
    from promptstage.datamodules.grading import grade as grade
    from promptstage.datamodules.gsm8k import GSM8K as GSM8K
    from promptstage.datamodules.math import MATH as MATH
    from promptstage.datamodules.prontoqa import ProntoQA as ProntoQA
    from promptstage.datamodules.worldtree import WorldTree as WorldTree
    from promptstage.lightning_modules.dham import DHAM as DHAM
    from promptstage.lightning_modules.lora import LoRA as LoRA
    from promptstage.lightning_modules.prefix_tuning import PrefixTuning as PrefixTuning
    from promptstage.lightning_modules.pretrained import Pretrained as Pretrained
    from promptstage.lightning_modules.prompt_tuning import PromptTuning as PromptTuning

__version__ = "0.2.0"

_MODULES = {
    "ACT": "callbacks.act",
    "AQuA": "datamodules.aqua",
    "ARC": "datamodules.arc",
    "DHAM": "lightning_modules.dham",
    "DPC": "callbacks.dpc",
    "GSM8K": "datamodules.gsm8k",
    "Generated": "datamodules.generated",
    "LoRA": "lightning_modules.lora",
    "MATH": "datamodules.math",
    "PrefixTuning": "lightning_modules.prefix_tuning",
    "Pretrained": "lightning_modules.pretrained",
    "ProntoQA": "datamodules.prontoqa",
    "PromptTuning": "lightning_modules.prompt_tuning",
    "SaliencyDiagnostics": "callbacks.saliency",
    "WorldTree": "datamodules.worldtree",
    "grade": "datamodules.grading",
}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

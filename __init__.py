"""Soft prompts that make a frozen language model reason better, on PyTorch Lightning.

    import promptstage as ps

    prompt = ps.DHAM(ps.Backbone("embedded"), num_virtual_tokens=16)
    run = ps.fit(prompt, ps.Generated(task="addition"), max_steps=200, lr=0.03, folder="runs/first")
    print(run.test().accuracy)

Names are imported on first use, so that ``import promptstage`` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptstage.callbacks.act.callback import ACT as ACT
    from promptstage.callbacks.attention_budget.callback import AttentionBudget as AttentionBudget
    from promptstage.callbacks.dpc.callback import DPC as DPC
    from promptstage.callbacks.label_words.callback import LabelWords as LabelWords
    from promptstage.callbacks.saliency.callback import SaliencyDiagnostics as SaliencyDiagnostics
    from promptstage.composition.exports.formats import export as export
    from promptstage.composition.inspection import Saliency as Saliency
    from promptstage.composition.inspection import generate as generate
    from promptstage.composition.inspection import saliency as saliency
    from promptstage.composition.results import Evaluation as Evaluation
    from promptstage.datamodules.aqua import AQuA as AQuA
    from promptstage.datamodules.arc import ARC as ARC
    from promptstage.datamodules.asdiv import ASDiv as ASDiv
    from promptstage.datamodules.classification import Classification as Classification
    from promptstage.datamodules.custom import Custom as Custom
    from promptstage.datamodules.generated import Generated as Generated
    from promptstage.datamodules.gsm8k import GSM8K as GSM8K
    from promptstage.datamodules.gsmplus import GSMPlus as GSMPlus
    from promptstage.datamodules.math import MATH as MATH
    from promptstage.datamodules.metamathqa import MetaMathQA as MetaMathQA
    from promptstage.datamodules.mixture import Mixture as Mixture
    from promptstage.datamodules.prontoqa import ProntoQA as ProntoQA
    from promptstage.datamodules.sequences import Sequences as Sequences
    from promptstage.datamodules.strategyqa import StrategyQA as StrategyQA
    from promptstage.datamodules.svamp import SVAMP as SVAMP
    from promptstage.datamodules.worldtree import WorldTree as WorldTree
    from promptstage.grading import grade as grade
    from promptstage.lightning_modules.anchor_reweighting import AnchorReweighting as AnchorReweighting
    from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook as AttentionHook
    from promptstage.lightning_modules.backbone.attention_hooks import LayerAttention as LayerAttention
    from promptstage.lightning_modules.backbone.model import Backbone as Backbone
    from promptstage.lightning_modules.decoding.decoder import Decoder as Decoder
    from promptstage.lightning_modules.decoding.engines import Greedy as Greedy
    from promptstage.lightning_modules.decoding.engines import Sampling as Sampling
    from promptstage.lightning_modules.dham import DHAM as DHAM
    from promptstage.lightning_modules.full_fine_tuning import FullFineTuning as FullFineTuning
    from promptstage.lightning_modules.hard_prompt import HardPrompt as HardPrompt
    from promptstage.lightning_modules.lora import LoRA as LoRA
    from promptstage.lightning_modules.prefix_tuning import PrefixTuning as PrefixTuning
    from promptstage.lightning_modules.pretrained import Pretrained as Pretrained
    from promptstage.lightning_modules.prompt_tuning import PromptTuning as PromptTuning
    from promptstage.runs import Run as Run
    from promptstage.runs import fit as fit
    from promptstage.runs import load as load
    from promptstage.runs import partition as partition
    from promptstage.tuning.api import tune as tune
    from promptstage.tuning.report import Tuning as Tuning
    from promptstage.utilities.errors import UserError as UserError

__version__ = "0.2.0"

_MODULES = {
    "ACT": "callbacks.act.callback",
    "AQuA": "datamodules.aqua",
    "ARC": "datamodules.arc",
    "AnchorReweighting": "lightning_modules.anchor_reweighting",
    "ASDiv": "datamodules.asdiv",
    "AttentionBudget": "callbacks.attention_budget.callback",
    "AttentionHook": "lightning_modules.backbone.attention_hooks",
    "Backbone": "lightning_modules.backbone.model",
    "Classification": "datamodules.classification",
    "Decoder": "lightning_modules.decoding.decoder",
    "Custom": "datamodules.custom",
    "DHAM": "lightning_modules.dham",
    "DPC": "callbacks.dpc.callback",
    "Evaluation": "composition.results",
    "FullFineTuning": "lightning_modules.full_fine_tuning",
    "GSM8K": "datamodules.gsm8k",
    "GSMPlus": "datamodules.gsmplus",
    "Generated": "datamodules.generated",
    "Greedy": "lightning_modules.decoding.engines",
    "HardPrompt": "lightning_modules.hard_prompt",
    "LabelWords": "callbacks.label_words.callback",
    "LayerAttention": "lightning_modules.backbone.attention_hooks",
    "LoRA": "lightning_modules.lora",
    "MATH": "datamodules.math",
    "MetaMathQA": "datamodules.metamathqa",
    "Mixture": "datamodules.mixture",
    "PrefixTuning": "lightning_modules.prefix_tuning",
    "Pretrained": "lightning_modules.pretrained",
    "PromptTuning": "lightning_modules.prompt_tuning",
    "ProntoQA": "datamodules.prontoqa",
    "Run": "runs",
    "SVAMP": "datamodules.svamp",
    "Saliency": "composition.inspection",
    "SaliencyDiagnostics": "callbacks.saliency.callback",
    "Sampling": "lightning_modules.decoding.engines",
    "Sequences": "datamodules.sequences",
    "StrategyQA": "datamodules.strategyqa",
    "Tuning": "tuning.report",
    "UserError": "utilities.errors",
    "WorldTree": "datamodules.worldtree",
    "export": "composition.exports.formats",
    "fit": "runs",
    "generate": "composition.inspection",
    "grade": "grading",
    "load": "runs",
    "partition": "runs",
    "saliency": "composition.inspection",
    "tune": "tuning.api",
}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

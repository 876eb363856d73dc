"""Prompts of every method, away from their starting values."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoints import PromptCheckpointIO
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.full_fine_tuning import FullFineTuning
from promptstage.lightning_modules.initialization import PromptInit
from promptstage.lightning_modules.lora import LoRA
from promptstage.lightning_modules.prefix_tuning import PrefixTuning
from promptstage.lightning_modules.pretrained import Pretrained
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from tests.tiny_folder import save_tiny_backbone

IDS = torch.arange(4, 20)[None]
CASES: dict[str, tuple[type[SoftPromptModule], dict[str, Any]]] = {
    "pretrained": (Pretrained, {"val_generations": 3}),
    "prompt": (PromptTuning, {"num_virtual_tokens": 5, "init": PromptInit("text", "Think")}),
    "late": (PromptTuning, {"num_virtual_tokens": 5, "insert_at": 2}),
    "prompt with MLP": (PromptTuning, {"num_virtual_tokens": 5, "mlp_width": 8}),
    "prompt after BOS": (PromptTuning, {"num_virtual_tokens": 5, "bos_first": True}),
    "visible prompt": (PromptTuning, {"num_virtual_tokens": 5, "visible_from": 1, "visible_until": 3}),
    "prefix": (PrefixTuning, {"num_virtual_tokens": 4, "init": PromptInit("random")}),
    "prefix with a frozen token": (PrefixTuning, {"num_virtual_tokens": 4, "num_frozen_tokens": 1}),
    "prefix with MLP": (PrefixTuning, {"num_virtual_tokens": 4, "mlp_width": 8, "visible_until": 2}),
    "DHAM": (DHAM, {"num_virtual_tokens": 7, "partition": [0, 1, 3]}),
    "DHAM with gates": (DHAM, {"num_virtual_tokens": 7, "partition": "uniform", "gate": True}),
    "replacing DHAM": (DHAM, {"num_virtual_tokens": 7, "partition": [0, 2], "mode": "replace"}),
    "DHAM after BOS": (DHAM, {"num_virtual_tokens": 7, "partition": "single", "bos_first": True}),
    "full fine-tuning": (FullFineTuning, {"val_generations": 3}),
    "LoRA": (LoRA, {"rank": 2, "alpha": 8, "target_modules": ["q_proj"]}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_backbone(tmp_path_factory.mktemp("backbones") / "tiny")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return Backbone(str(folder))


def trained(name: str, backbone: Backbone, seed: int = 1) -> SoftPromptModule:
    """A method away from its starting values."""
    cls, arguments = CASES[name]
    module = cls(backbone, **arguments)
    module.create_prompts()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.trained_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return module


@torch.no_grad()
def logits(module: SoftPromptModule) -> Tensor:
    return module.backbone(IDS, module.prefix())


def as_checkpoint(module: SoftPromptModule, path: Path) -> Path:
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    PromptCheckpointIO().save_checkpoint(checkpoint, path)
    return path


def assert_same(loaded: SoftPromptModule, module: SoftPromptModule) -> None:
    assert type(loaded) is type(module)
    state, expected = loaded.state_dict(), module.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert torch.equal(logits(loaded), logits(module))
    assert loaded.constructor_arguments == module.constructor_arguments
    assert loaded.text_settings == module.text_settings
    assert not loaded.training

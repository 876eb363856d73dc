"""One backbone in memory for several prompts, and the ways to name a backbone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.lora import LoRA
from promptstage.lightning_modules.prefix_tuning import PrefixTuning
from promptstage.lightning_modules.pretrained import Pretrained
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.utilities.errors import UserError
from tests.tiny_folder import save_tiny_backbone
from tests.unit.backbone.tiny import losses_of_steps

IDS = torch.arange(8)[None]
METHODS: dict[type[SoftPromptModule], dict[str, Any]] = {
    Pretrained: {},
    PromptTuning: {"num_virtual_tokens": 5},
    PrefixTuning: {"num_virtual_tokens": 5},
    DHAM: {"num_virtual_tokens": 6, "partition": "single"},
    LoRA: {"rank": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_backbone(tmp_path_factory.mktemp("backbones") / "tiny")


def create(cls: type[SoftPromptModule], backbone: Any) -> SoftPromptModule:
    torch.manual_seed(3)
    module = cls(backbone, **METHODS[cls])
    module.create_prompts()
    return module


@torch.no_grad()
def logits(module: SoftPromptModule) -> Tensor:
    return module.backbone(IDS, module.prefix())


@pytest.mark.parametrize("cls", METHODS)
def test_a_backbone_is_a_configuration_a_name_or_loaded(cls: type[SoftPromptModule], folder: Path) -> None:
    config = BackboneConfig(str(folder))
    loaded = Backbone(config)
    modules = [create(cls, backbone) for backbone in (config, str(folder), loaded)]
    assert all(module.backbone_config == config for module in modules)
    assert all(torch.equal(logits(module), logits(modules[0])) for module in modules)


def test_options_of_a_backbone_are_keywords(folder: Path) -> None:
    config = BackboneConfig(str(folder), dtype="bfloat16")
    assert Backbone(str(folder), dtype="bfloat16").config == config
    backbone = Backbone(BackboneConfig(str(folder)), dtype="bfloat16")
    assert (backbone.config, backbone.dtype) == (config, torch.bfloat16)
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        Backbone(str(folder), dtype="bflaot16")
    with pytest.raises(TypeError, match="dytpe"):
        Backbone(str(folder), dytpe="bfloat16")


def test_prompts_share_a_backbone_in_memory(folder: Path) -> None:
    """Each trains as with a backbone of its own, and none changes another's."""
    shared = Backbone(str(folder))
    modules = {cls: create(cls, shared) for cls in METHODS}
    before = logits(modules[Pretrained])
    weights = {name: parameter.data_ptr() for name, parameter in shared.named_parameters()}
    for cls, module in modules.items():
        frozen = {
            name.replace(".base_layer", ""): parameter.data_ptr()
            for name, parameter in module.backbone.named_parameters()
            if not parameter.requires_grad
        }
        assert frozen == weights, cls
    for cls in METHODS:
        if cls is not Pretrained:
            losses = losses_of_steps(modules[cls])
            assert losses == losses_of_steps(create(cls, str(folder)))
            assert losses[-1] < losses[0]
    assert torch.equal(logits(modules[Pretrained]), before)
    assert not any(parameter.requires_grad for parameter in shared.parameters())


def test_a_backbone_with_adapters_is_not_shared(folder: Path) -> None:
    adapted = create(LoRA, str(folder)).backbone
    with pytest.raises(UserError, match=r"^backbone '[^\n]*' must be frozen, got trainable parameters$"):
        PromptTuning(adapted)

"""Layers that LoRA updates."""

import warnings
from pathlib import Path

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.tiny_model import random_model, tiny_config
from promptstage.lightning_modules.lora import LoRA
from tests.unit.backbone.tiny import random_ids

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
LAYERS = {
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "phimoe": ATTENTION,  # its router is a linear layer that returns three tensors
    "qwen3_moe": ATTENTION,
    "deepseek_v3": {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
    | {"gate_proj", "up_proj", "down_proj"},
    "llama4_text": ATTENTION | {"gate_proj", "up_proj", "down_proj"},
    # Mixers use the weights of dt_proj without calling it.
    "jamba": ATTENTION | {"in_proj", "x_proj", "out_proj", "gate_proj", "up_proj", "down_proj"},
    "mamba": {"in_proj", "x_proj", "out_proj"},
    "stablelm": ATTENTION | {"gate_proj", "up_proj", "down_proj"},
    "qwen3_5_text": ATTENTION
    | {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"}
    | {"gate_proj", "up_proj", "down_proj"},
}


@pytest.mark.parametrize("family", LAYERS)
def test_all_linear_layers_of_the_blocks(family: str, tmp_path: Path) -> None:
    """A gradient reaches every adapter, and PEFT warns of nothing."""
    random_model(tiny_config(CONFIG_MAPPING[family])).save_pretrained(tmp_path)
    backbone = Backbone(str(tmp_path))
    module = LoRA(backbone, rank=2, alpha=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.configure_prompts(torch.Generator().manual_seed(0))
    names = {name.split(".lora_")[0] for name, part in module.named_parameters() if part.requires_grad}
    assert {name.rsplit(".", 1)[1] for name in names} == LAYERS[family]
    assert all(".layers." in name or ".h." in name for name in names)
    with torch.no_grad():
        for parameter in module.trained_parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    ids = torch.stack(random_ids(9, 9))
    module.backbone.loss(ids, ids)[0].backward()
    assert all(bool(parameter.grad.any()) for parameter in module.trained_parameters())

"""Backbones that cannot take a prefix are refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from promptstage.lightning_modules.backbone.attention import IMPLEMENTATION, register
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import tiny_backbone, wrap


def refused_config(name: str) -> Any:
    import transformers as hf

    shared = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    grouped = {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48}
    make: dict[str, Callable[[], Any]] = {
        "bloom": lambda: hf.BloomConfig(**shared),
        "mamba": lambda: hf.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2),
        "falcon": lambda: hf.FalconConfig(**shared),
        "falcon-alibi": lambda: hf.FalconConfig(**shared, alibi=True),
        "gptj": lambda: hf.GPTJConfig(**{**shared, "rotary_dim": 4}),
        "mpt": lambda: hf.MptConfig(**shared),
        "jamba": lambda: hf.JambaConfig(
            **shared, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=2
        ),
        "llama4": lambda: hf.Llama4TextConfig(
            **shared, **grouped, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=4
        ),
        # Its embeddings are narrower than its layers.
        "opt": lambda: hf.OPTConfig(**shared, ffn_dim=48, word_embed_proj_dim=16),
    }
    return make[name]()


REFUSED = (
    *("bloom", "mamba", "falcon", "falcon-alibi", "gptj"),
    *("mpt", "jamba", "opt", "llama4"),
)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_on_loading(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    model = AutoModelForCausalLM.from_config(refused_config(name), attn_implementation="eager")
    model.save_pretrained(folder)
    with pytest.raises(UserError) as caught:
        Backbone(BackboneConfig(name=str(folder)))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    assert "cannot take a prefix" in message


@pytest.mark.parametrize("name", ["bloom", "jamba", "mpt", "opt", "llama4"])
def test_refused_when_ready_made(name: str) -> None:
    from transformers import AutoModelForCausalLM

    register()
    model = AutoModelForCausalLM.from_config(refused_config(name), attn_implementation=IMPLEMENTATION)
    with pytest.raises(UserError, match=r"^backbone 'tiny' .*cannot take a prefix: [^\n]+$"):
        wrap(model)


def test_accepted_families_say_what_they_are(family: str) -> None:
    backbone = tiny_backbone(family)
    assert backbone.num_layers == 4
    assert backbone.hidden_size == 32
    assert backbone.dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.train().training

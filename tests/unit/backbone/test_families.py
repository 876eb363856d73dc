"""Backbones are right behind a prefix, or refused in one line that states the cause."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.attention import IMPLEMENTATION, register
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.tiny_model import random_model, tiny_config
from promptstage.utilities.errors import UserError
from scripts.families import examine
from tests.unit.backbone.tiny import pad, random_ids, tiny_backbone, wrap


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
    latent = {"kv_lora_rank": 8, "q_lora_rank": 16, "v_head_dim": 8, "num_key_value_heads": 4}
    latent |= {"qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "index_topk": 4, "index_n_heads": 2}
    experts = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_local_experts": 4}
    experts |= {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    make: dict[str, Callable[[], Any]] = {
        "bloom": lambda: hf.BloomConfig(**shared),
        "falcon": lambda: hf.FalconConfig(**shared),
        "falcon-alibi": lambda: hf.FalconConfig(**shared, alibi=True),
        "gptj": lambda: hf.GPTJConfig(**{**shared, "rotary_dim": 4}),
        "mpt": lambda: hf.MptConfig(**shared),
        "deepseek_v32": lambda: hf.DeepseekV32Config(**shared, **latent, **experts),
        "minimax_m3": lambda: hf.MiniMaxM3VLTextConfig(
            **shared, **grouped, **experts, layer_types=["full_attention", "minimax_m3_sparse"]
        ),
        "diffllama": lambda: hf.DiffLlamaConfig(**shared, num_key_value_heads=2, intermediate_size=48),
        "doge": lambda: hf.DogeConfig(**shared, num_key_value_heads=2, intermediate_size=48),
        "inkling": lambda: hf.InklingTextConfig(**shared, **grouped),
        # Its embeddings are narrower than its layers.
        "opt": lambda: hf.OPTConfig(**shared, ffn_dim=48, word_embed_proj_dim=16),
    }
    return make[name]()


SPARSE = "its attention is sparse: an indexer selects the tokens to attend to, without the prefix"
NONE = (
    "its layers use neither transformers' attention interface nor its cache of recurrent states, where a "
    "prefix enters"
)
OWN = "its architecture has attention implementations of its own, which cannot be extended"
REFUSED = {
    "bloom": NONE,
    "falcon": OWN,
    "falcon-alibi": OWN,
    "gptj": OWN,
    "mpt": OWN,
    "opt": "its embeddings are 16 wide, its layers 32",
    "deepseek_v32": SPARSE,
    "minimax_m3": SPARSE,
    "diffllama": "its layers call attention more than once",
    "doge": "its attention masks depend on the head or are not boolean",
    "inkling": "its attention adds a bias of relative positions, which keys of a prefix lack",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_on_loading(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    model = AutoModelForCausalLM.from_config(refused_config(name), attn_implementation="eager")
    model.save_pretrained(folder)
    with pytest.raises(UserError) as caught:
        Backbone(BackboneConfig(name=str(folder)))
    message = str(caught.value)
    assert message.startswith(f"backbone '{folder}' ")
    assert message.endswith(f"cannot take a prefix: {REFUSED[name]}")


@pytest.mark.parametrize("name", ["bloom", "mpt", "opt"])
def test_refused_when_ready_made(name: str) -> None:
    from transformers import AutoModelForCausalLM

    register()
    model = AutoModelForCausalLM.from_config(refused_config(name), attn_implementation=IMPLEMENTATION)
    with pytest.raises(UserError) as caught:
        wrap(model)
    assert str(caught.value).endswith(f"cannot take a prefix: {REFUSED[name]}")


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("blt", "cannot take a prefix: its configuration states no hidden_size"),
        ("dots3_note_text", f"cannot take a prefix: {SPARSE}"),  # its layers differ in heads
    ],
)
def test_refused_without_a_common_size(name: str, cause: str, tmp_path: Path) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    folder = tmp_path / name
    random_model(tiny_config(CONFIG_MAPPING[name])).save_pretrained(folder)
    with pytest.raises(UserError) as caught:
        Backbone(BackboneConfig(name=str(folder)))
    assert str(caught.value).startswith(f"backbone '{folder}' ")
    assert str(caught.value).endswith(cause)


DIFFER = r" differ by [\d.]+ standard deviations from those of the same tokens as text \(allowed: 0.001\)"
LINES = {
    "zamba": "its layers share attention modules, which do not know their layer",
    "zamba2": "its layers share attention modules, which do not know their layer",
    "zaya": "a layer receives more than hidden states from earlier ones: "
    f"logits behind a prompt of a later layer{DIFFER}",
    "minimax": "its layers keep states in a cache of their own, MiniMaxCache: "
    f"logits behind a prefix{DIFFER}",
    "recurrent_gemma": "its layers pass information between tokens outside attention: "
    f"logits behind a prefix{DIFFER}",
    "qwen4_exp": SPARSE,
    "deepseek_v4": "it cannot be run on embeddings instead of token ids",
    "xglm": NONE,
    "rwkv": NONE,
    "emu3": "transformers has no causal language model of type emu3_text_model",
    "xmod": "its code fails on a short text: Input language unknown.*",
    "gemma4_unified_assistant": "its code fails on a short text: inputs_embeds and shared_kv_states .*",
}


@pytest.mark.parametrize("name", LINES)
def test_refused_with_the_cause(name: str) -> None:
    plain, checkpointed = examine(name)
    assert plain.verdict == "rejected"
    assert checkpointed is None
    assert re.fullmatch(LINES[name], plain.reason), plain.reason


CORRECT = (
    *("mimo_v2_flash", "granite_swa", "flint", "vaultgemma", "gemma4", "deepseek_v2", "glm4_moe_lite"),
    *("minicpm3", "youtu", "jetmoe", "opt", "biogpt", "ctrl", "modernbert-decoder", "llama4"),
    *("mamba", "mamba2", "falcon_mamba", "jamba", "stablelm", "nemotron"),
)
NOT_RECOMPUTED = ("jetmoe", "ctrl")


@pytest.mark.parametrize("name", CORRECT)
def test_right_behind_the_same_tokens_as_text(name: str) -> None:
    """Logits, loss, gradient and generation; also with gradient checkpointing, without dropout."""
    plain, checkpointed = examine(name)
    assert plain.verdict == "correct"
    assert checkpointed is not None
    if name in NOT_RECOMPUTED:
        assert checkpointed.verdict == "rejected"
        assert "does not support activation checkpointing" in checkpointed.reason
    else:
        assert checkpointed.verdict == "correct"


def test_window_that_attention_is_not_told(tmp_path: Path) -> None:
    """Qwen2-MoE gives its window to masks only, which packing replaces."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.Qwen2MoeConfig(
        **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 2},
        **{"num_experts_per_tok": 1, "shared_expert_intermediate_size": 16, "initializer_range": 0.2},
        **{"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2},
    )
    hf.Qwen2MoeForCausalLM(config).save_pretrained(tmp_path)
    backbone = Backbone(str(tmp_path))
    stock = hf.Qwen2MoeForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    rows = random_ids(9, 5, 7)
    ids, mask = pad(rows, "right")
    _, each = backbone.loss(ids, torch.where(mask.bool(), ids, -100))
    for row, loss in zip(rows, each, strict=True):
        logits = stock(input_ids=row[None]).logits[0, :-1]
        assert abs(float(loss - cross_entropy(logits, row[1:], reduction="sum"))) < 1e-4


def test_accepted_families_say_what_they_are(family: str) -> None:
    backbone = tiny_backbone(family)
    assert backbone.num_layers == 4
    assert backbone.hidden_size == 32
    assert backbone.dtype == torch.float64
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.train().training

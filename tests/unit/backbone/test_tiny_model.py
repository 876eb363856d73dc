"""Tiny models of a given configuration keep its settings; descriptions of loaded models name them."""

import pytest
import torch

from promptstage.lightning_modules.backbone.description import (
    describe_layer_types,
    describe_layers,
    describe_positions,
)
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.tiny_model import (
    random_model,
    reduced_config,
    tiny_config,
    tiny_model,
)
from promptstage.lightning_modules.backbone.tiny_sizes import LAYERS
from promptstage.lightning_modules.backbone.verification import compare
from tests.unit.backbone.tiny import model_config, tiny_backbone


def test_settings_stay_and_sizes_are_reduced() -> None:
    import transformers

    config = transformers.LlamaConfig(num_key_value_heads=32, rms_norm_eps=0.5, tie_word_embeddings=True)
    small = reduced_config(config)
    assert (small.hidden_size, small.num_hidden_layers, small.num_key_value_heads) == (32, LAYERS, 4)
    assert (small.rms_norm_eps, small.tie_word_embeddings) == (0.5, True)
    assert config.hidden_size == 4096


@pytest.mark.parametrize("kind", ["git", "phi4_multimodal", "prophetnet", "reformer", "xlnet"])
def test_sizes_of_parts_and_by_other_names(kind: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model = random_model(tiny_config(CONFIG_MAPPING[kind]))
    assert sum(part.numel() for part in model.parameters()) < 1_000_000


def test_what_is_switched_off_stays_off() -> None:
    changes = {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}
    small = reduced_config(model_config("gemma4", num_hidden_layers=6, layer_types=None, **changes))
    assert (small.num_kv_shared_layers, small.hidden_size_per_layer_input) == (0, 0)
    assert small.num_hidden_layers == LAYERS
    assert set(small.layer_types) == {"sliding_attention", "full_attention"}


def test_factors_of_frequencies_are_shortened(tmp_path: object) -> None:
    import transformers

    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
    }
    factors = {name: [1.0 + i for i in range(48)] for name in ("long_factor", "short_factor")}
    transformers.Phi3Config(rope_parameters=rope | factors, max_position_embeddings=131072).save_pretrained(
        str(tmp_path)
    )
    tiny = tiny_model(BackboneConfig(str(tmp_path)))
    assert not tiny.problem
    assert tiny.model.config.rope_parameters["long_factor"] == [1.0, 2.0, 3.0, 4.0]
    assert describe_positions(tiny.config).startswith("131,072; above 4,096 tokens, dependent on ")


@pytest.mark.parametrize(
    ("family", "phrase"),
    [
        ("llama", "attention in 4 of 4 layers"),
        ("gpt_oss", "attention sinks in 4"),
        ("gemma2", "scores capped at 2"),
        ("gemma3n", "2 last layers without a state of their own"),
        ("gemma4", "widths that differ between layers"),
        ("deepseek_v3", "keys and values of different widths"),
    ],
)
def test_layers_are_described(family: str, phrase: str) -> None:
    backbone = tiny_backbone(family, torch.float32)
    assert phrase in describe_layers(backbone)
    assert not backbone.hooks


def test_kinds_of_layers() -> None:
    kinds = describe_layer_types(model_config("gemma3n"))
    assert kinds == "2 sliding_attention (sliding window of 96 tokens), 2 full_attention"
    assert describe_layer_types(model_config("mistral", sliding_window=96)) == "sliding window of 96 tokens"
    assert describe_layer_types(model_config("llama")) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_differences_of_the_check_are_returned(dtype: torch.dtype) -> None:
    comparison = compare(tiny_backbone("llama", dtype))
    assert comparison is not None
    assert list(comparison.differences) == [
        "logits of packed examples",
        "logits behind a prompt of a later layer",
        "logits of cached generation",
        "losses of packed examples",
        "the prompt's gradient",
    ]
    assert 0 < max(comparison.differences.values()) < comparison.tolerance.logits


def test_no_comparison_without_room() -> None:
    assert compare(tiny_backbone("mistral", sliding_window=2)) is None

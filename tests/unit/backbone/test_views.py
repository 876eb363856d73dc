"""Windows and chunks that are shorter than the content, behind prompts that stay visible."""

from pathlib import Path
from typing import Any

import pytest
import torch

from promptstage.lightning_modules.backbone.attention_hooks import Observation
from promptstage.lightning_modules.backbone.layer_views import View, layer_view
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.functional.saliency import visible
from tests.unit.backbone.test_trace import compare
from tests.unit.backbone.tiny import Characters, moved, pad, wrap
from tests.unit.backbone.views import Viewed, viewed_config

SIZE = 6
WINDOWED = ("mistral", "phimoe", "qwen3_moe", "starcoder2")
MIXED = ("gemma3_text", "gemma3n_text", "gpt_oss", "cohere2", "mimo_v2_flash", "lfm3", "gemma4_unified")
# Queries grow from position 7 on.
LLAMA4 = {"floor_scale": 8, "attn_scale": 0.5}


def config_of(family: str) -> Any:
    return viewed_config(family, SIZE, **(LLAMA4 if family == "llama4_text" else {}))


@pytest.mark.parametrize("length", [0, 5])
@pytest.mark.parametrize("family", [*WINDOWED, *MIXED, "llama4_text"])
def test_content_longer_than_the_view(family: str, length: int, tmp_path: Path) -> None:
    differences = Viewed(config_of(family), tmp_path, length).differences()
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.parametrize(
    "changes",
    [{"attention_chunk_size": SIZE + 1}, {"floor_scale": 16}, {"attn_scale": 0.2}],
    ids=lambda changes: next(iter(changes)),
)
def test_fingerprint_sees_chunks_and_the_growth_of_queries(changes: dict[str, Any], tmp_path: Path) -> None:
    first, other = (
        Viewed(viewed_config("llama4_text", SIZE, **(LLAMA4 | own)), tmp_path / str(i)).backbone
        for i, own in enumerate(({}, changes))
    )
    assert first.fingerprint != other.fingerprint


@pytest.mark.parametrize("length", [1, 4, 6, 13])
def test_chunks_begin_at_positions_of_the_content(length: int, tmp_path: Path) -> None:
    differences = Viewed(config_of("llama4_text"), tmp_path, length).differences()
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.parametrize("start", [1, 3])
@pytest.mark.parametrize("family", ["mistral", "phimoe", "llama4_text"])
def test_late_prompt(family: str, start: int, tmp_path: Path) -> None:
    differences = Viewed(config_of(family), tmp_path, 5, start).differences()
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.parametrize(
    ("family", "views"),
    [
        ("llama", [View()] * 4),
        ("moshi", [View()] * 4),  # its window is in the configuration only
        ("phimoe", [View(window=SIZE)] * 4),
        ("gemma3_text", [View(window=SIZE), View()] * 2),
        ("llama4_text", [View(chunk=SIZE), View()] * 2),
    ],
)
def test_views_are_those_of_the_masks(family: str, views: list[View], tmp_path: Path) -> None:
    backbone = Viewed(config_of(family), tmp_path).backbone
    assert [layer_view(layer.self_attn, {}) for layer in backbone.layers] == views


@pytest.mark.parametrize("family", ["llama4_text", "phimoe"])
def test_saliency_sees_what_attention_sees(family: str, tmp_path: Path) -> None:
    viewed = Viewed(config_of(family), tmp_path)
    backbone = viewed.backbone
    prefix = stage_prefix(backbone, [0], [viewed.prompt]).detach()
    batch, mask = pad(viewed.rows, "right")
    labels = torch.where(mask.bool(), batch, -100)
    terms, _ = attention_terms(backbone, batch, labels, range(4), prefix)
    observation = Observation(range(4))
    with backbone.hooked(observation):
        backbone.loss(batch, labels, prefix)
    for layer in range(4):
        seen = observation.attention[layer].seen[:, 0]
        content = mask.bool()
        rows = visible(terms[layer], content, slice(0, batch.shape[1]))
        for own, expected, real in zip(rows, seen.expand(len(batch), -1, -1), content, strict=True):
            assert torch.equal(own[real], expected[real])
        assert not seen.all(-1).any() or layer % 2


@pytest.mark.parametrize("name", ["prompt", "late", "prefix", "dham"])
def test_trace_within_chunks(name: str) -> None:
    from promptstage.lightning_modules.backbone.attention import IMPLEMENTATION, register
    from promptstage.lightning_modules.backbone.tiny_model import random_model

    register()
    config = config_of("llama4_text")
    config.layer_types, config.no_rope_layers = ["full_attention", "chunked_attention"] * 2, [0, 1] * 2
    backbone = wrap(random_model(config, IMPLEMENTATION).eval())
    assert isinstance(backbone.tokenizer, Characters)
    with torch.no_grad():
        prefix = moved(name, backbone, seed=2).prefix()
    assert prefix is not None
    assert compare(backbone, prefix) < 1e-4

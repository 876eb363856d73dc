"""Backbones with linear layers in 8 bits: the same identity, close logits, generations, no gradients."""

import copy

import pytest
import torch
from torch import nn

from promptstage.lightning_modules.backbone import int8_weights
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.int8_weights import Int8Linear, quantize_linears
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.lora import LoRA
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import random_ids, tiny_backbone


@pytest.fixture(scope="module")
def exact() -> Backbone:
    return Backbone("embedded")


@pytest.fixture(scope="module")
def quantized() -> Backbone:
    return Backbone("embedded", quantization="int8")


def test_all_linear_layers_are_quantized_and_nothing_else_changes(
    exact: Backbone, quantized: Backbone
) -> None:
    linears = {name for name, module in exact.model.named_modules() if type(module) is nn.Linear}
    assert linears == {name for name, module in quantized.model.named_modules() if type(module) is Int8Linear}
    assert quantized.dtype == torch.float32
    assert torch.equal(quantized.embedding, exact.embedding)
    assert not any(parameter.requires_grad for parameter in quantized.parameters())


def test_fingerprint_is_that_of_the_stored_weights(exact: Backbone, quantized: Backbone) -> None:
    assert quantized.fingerprint == exact.fingerprint
    assert quantized.config.quantization == "int8"


def test_logits_are_close_to_those_in_full_precision(exact: Backbone, quantized: Backbone) -> None:
    ids = torch.tensor([exact.tokenizer("347+58=405 ")["input_ids"]])
    with torch.no_grad():
        actual, expected = quantized(ids), exact(ids)
    assert 0 < float((actual - expected).square().mean().sqrt() / expected.std()) < 0.1


def test_a_row_generates_alike_alone_and_in_a_batch(quantized: Backbone) -> None:
    tokenizer = quantized.tokenizer
    with torch.no_grad():
        prefix = stage_prefix(quantized, [0], [quantized.embedding[:5].clone()])
    rows = [tokenizer(text)["input_ids"] for text in ("12+7", "3+4", "345+86")]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    together = generate(quantized, tokenizer, ids, mask, prefix, 8)
    for row, expected in zip(rows, together, strict=True):
        ids = torch.tensor([row])
        assert generate(quantized, tokenizer, ids, torch.ones_like(ids), prefix, 8) == [expected]


def test_losses_and_gradients_are_refused(quantized: Backbone) -> None:
    ids = torch.arange(4)[None]
    with pytest.raises(UserError, match=r"^a loss needs full precision: .* must be none, got int8"):
        quantized.loss(ids, ids)
    embeddings = quantized.embedding[:3].clone().requires_grad_()
    with pytest.raises(UserError, match=r"quantization int8 has no gradients"):
        quantized.record_states(embeddings[None])


def test_lora_is_refused() -> None:
    with pytest.raises(UserError, match=r"^LoRA needs full precision: backbone\.quantization must be none"):
        LoRA(BackboneConfig("embedded", quantization="int8"))


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma3", "gpt_oss", "deepseek_v3"])
def test_other_families(family: str) -> None:
    backbone, ids = tiny_backbone(family), random_ids(6)[0][None]
    with torch.no_grad():
        expected = backbone(ids)
        quantize_linears(backbone)
        actual = backbone(ids)
    assert 0 < float((actual - expected).square().mean().sqrt() / expected.std()) < 0.3


def test_blocks_without_plain_linear_layers_are_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be quantized: its blocks have no linear layers of torch"):
        quantize_linears(tiny_backbone("gpt2"))


def test_saturating_products_are_refused(exact: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_weights, "products_are_exact", lambda: False)
    with pytest.raises(UserError, match=r"products of 8-bit integers are not exact on this CPU"):
        quantize_linears(exact)
    assert type(exact.model.get_output_embeddings()) is nn.Linear


def test_code_that_reads_weights_is_refused(exact: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = copy.deepcopy(exact)
    mlp = backbone.layers[0].mlp
    forward = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda states: forward(states.to(mlp.down_proj.weight.dtype)))
    with pytest.raises(UserError, match=r"cannot be quantized: its code fails on quantized weights"):
        quantize_linears(backbone)


def test_a_model_that_is_given_is_not_changed(exact: Backbone) -> None:
    with pytest.raises(UserError, match=r"^backbone\.quantization must be none for a given model, got int8"):
        Backbone("embedded", exact.model, quantization="int8")


def test_shards_are_refused() -> None:
    with pytest.raises(UserError, match=r"^an int8 backbone cannot be sharded: .* got node"):
        BackboneConfig("embedded", quantization="int8", shard="node")

"""Isolated rows and compressed contexts equal materialized attention with hidden columns, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.context_states import check_visible, record_context
from promptstage.lightning_modules.backbone.isolation import Isolation
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.next_tokens import next_token_logits
from promptstage.utilities.errors import UserError
from scripts.slow_attention import SLOW, register_slow
from tests.unit.backbone.hybrids import hybrid_backbone
from tests.unit.backbone.reference import slow_logits
from tests.unit.backbone.tiny import moved, pad, random_ids, random_model, tiny_backbone

CONTEXT, KEPT = 9, [0, 3, 4, 8]  # tokens of the context, and those that remain
LABELS, SOME = (3, 7), (0, 1)  # isolated rows, and the layers
FAMILIES = ("llama", "gpt2", "mistral", "qwen3", "gemma2", "gemma3")


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> tuple[Backbone, Any]:
    """A backbone and the same model with slow attention."""
    register_slow()
    return tiny_backbone(request.param), random_model(request.param, SLOW)


def prompts(backbone: Backbone, method: str) -> tuple[Any, list[int], list[Tensor]]:
    """A prefix, and the same soft prompts for the slow reference."""
    if method == "none":
        return None, [], []
    module = moved(method, backbone)
    starts, own = ([0], [module.prompt]) if method == "prompt" else ([2], [module.prompt])
    return module.prefix(), starts, own


def slow(model: Any, ids: Tensor, rule: Any, starts: list[int], own: list[Tensor]) -> Tensor:
    return slow_logits(model, ids, torch.ones_like(ids), starts, own, rule=rule)[0]


@torch.no_grad()
@pytest.mark.parametrize("method", ["none", "prompt", "late"])
def test_isolated_rows_attend_to_themselves_and_the_prompt(pair: Any, method: str) -> None:
    backbone, model = pair
    (row,) = random_ids(12)
    prefix, starts, own = prompts(backbone, method)
    rule = {}
    for layer in SOME:
        virtual = 0 if prefix is None else prefix.length(layer)
        hidden = torch.zeros(virtual + 12, virtual + 12, dtype=torch.bool)
        for label in LABELS:
            hidden[virtual + label, virtual : virtual + label] = True
        rule[layer] = hidden
    expected = slow(model, row[None], rule, starts, own)
    with backbone.hooked(Isolation(SOME, torch.tensor([LABELS]))):
        alone = backbone(row[None], prefix)[0]
    assert (alone - expected).abs().max() < 1e-9
    assert (backbone(row[None], prefix)[0] - expected).abs().max() > 1e-3
    # In a padded batch, the second example has one isolated row alone.
    ids, _ = pad([row, row[:5]], "right")
    with backbone.hooked(Isolation(SOME, torch.tensor([LABELS, (3, -1)]))):
        batch = next_token_logits(backbone, ids, torch.tensor([12, 5]), prefix)
    assert (batch - expected[[11, 4]]).abs().max() < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("method", ["none", "prompt", "late"])
def test_a_compressed_context_equals_the_masked_full_context(pair: Any, method: str) -> None:
    backbone, model = pair
    (row,) = random_ids(14)
    prefix, starts, own = prompts(backbone, method)
    rule = {}
    for layer in range(backbone.num_layers):
        virtual = 0 if prefix is None else prefix.length(layer)
        hidden = torch.zeros(virtual + 14, virtual + 14, dtype=torch.bool)
        for column in set(range(CONTEXT)) - set(KEPT):
            hidden[virtual + CONTEXT :, virtual + column] = True
        rule[layer] = hidden
    expected = slow(model, row[None], rule, starts, own)
    full = slow(model, row[None], None, starts, own)
    states = record_context(backbone, row[None, :CONTEXT], prefix)
    after = row[CONTEXT:]
    compressed, whole = states.prefix_of(KEPT), states.prefix_of()
    assert (backbone(after[None], compressed)[0] - expected[CONTEXT:]).abs().max() < 1e-9
    assert (backbone(after[None], whole)[0] - full[CONTEXT:]).abs().max() < 1e-9
    assert (expected[-1] - full[-1]).abs().max() > 1e-3
    ids, _ = pad([after, after[:3]], "right")
    batch = next_token_logits(backbone, ids, torch.tensor([5, 3]), compressed)
    assert (batch - expected[[13, 11]]).abs().max() < 1e-9


@torch.no_grad()
def test_a_context_with_isolated_rows_equals_the_whole_pass(pair: Any) -> None:
    backbone, _ = pair
    (row,) = random_ids(14)
    hook = Isolation(SOME, torch.tensor([LABELS]))
    with backbone.hooked(hook):
        expected = backbone(row[None])[0, CONTEXT:]
    states = record_context(backbone, row[None, :CONTEXT], None, hook)
    assert (backbone(row[None, CONTEXT:], states.prefix_of())[0] - expected).abs().max() < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt_oss", "gemma3n", "deepseek_v3"])
def test_sinks_shared_keys_and_latents_have_whole_contexts(family: str) -> None:
    backbone = tiny_backbone(family)
    (row,) = random_ids(14)
    states = record_context(backbone, row[None, :CONTEXT], None)
    expected = backbone(row[None])[0, CONTEXT:]
    assert (backbone(row[None, CONTEXT:], states.prefix_of())[0] - expected).abs().max() < 1e-9


def test_short_windows_and_recurrent_states_are_rejected() -> None:
    backbone = tiny_backbone("mistral", sliding_window=12)
    check_visible(backbone, 12, 5)
    with pytest.raises(UserError, match="has a window of 12 tokens, and context and example have 13"):
        check_visible(backbone, 13, 0)
    with pytest.raises(UserError, match="layer 0 of backbone 'tiny' mixes tokens by a recurrent state"):
        record_context(hybrid_backbone("lfm2"), random_ids(5)[0][None], None)

"""Attention hooks: an intervention equals materialized attention; observers change nothing."""

from collections.abc import Collection
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.utilities.errors import UserError
from tests.unit.backbone.hybrids import hybrid_backbone
from tests.unit.backbone.reference import slow_logits
from tests.unit.backbone.test_generation import Ending
from tests.unit.backbone.tiny import moved, pad, random_ids, random_model, tiny_backbone

LENGTHS, LAYERS, TOKEN, VIRTUAL = (7, 2, 5, 1), (1, 2), 3, 5


class HideToken(AttentionHook):
    """Sets the weights of one column to zero; counts its calls."""

    changes_weights = True

    def __init__(self, token: int, layers: Collection[int]) -> None:
        self.token, self.layers = token, layers
        self.began, self.rows = 0, []

    def begin(self) -> None:
        self.began += 1

    def select(self, rows: Tensor) -> None:
        self.rows.append(rows.tolist())

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        weights = attention.weights().index_fill(-1, torch.tensor([self.token]), 0)
        return attention.output(weights).to(output.dtype)


class Look(AttentionHook):
    """Stores the shapes and the weights of what it sees."""

    def __init__(self, layers: Collection[int]) -> None:
        self.layers = layers
        self.seen: list[tuple[int, LayerAttention, Tensor]] = []

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        self.seen.append((layer, attention, output))
        return output


def hidden_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    given: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Materialized attention behind a prefix, whose column ``TOKEN`` has no weight in ``LAYERS``."""
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    layer: Any = module.layer_idx
    outputs = []
    for head in range(heads):
        more_keys, more_values = (part[head // groups] for part in given[layer])
        k = torch.cat([more_keys.expand(len(key), -1, -1), key[:, head // groups]], dim=1)
        v = torch.cat([more_values.expand(len(key), -1, -1), value[:, head // groups]], dim=1)
        mask = torch.nn.functional.pad(attention_mask[:, 0], (len(more_keys), 0))
        scores = query[:, head] @ k.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling) + mask
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        if layer in LAYERS:
            weights[:, :, TOKEN] = 0
        outputs.append(weights @ v)
    return torch.stack(outputs, dim=2), None


@pytest.fixture(params=["llama", "gpt2"])
def pair(request: pytest.FixtureRequest) -> tuple[Backbone, Any, dict[int, tuple[Tensor, Tensor]], Any]:
    """A backbone, its prefix, the prefix as given keys and values, and the model with slow attention."""
    from transformers import AttentionInterface

    AttentionInterface.register("hidden_reference", hidden_attention)
    backbone = tiny_backbone(request.param)
    with torch.no_grad():
        prefix = moved("prefix", backbone).prefix()
    assert prefix is not None
    given = {
        i: (entry.keys[0], entry.values[0]) for i, entry in enumerate(prefix.layers) if entry is not None
    }
    return backbone, prefix, given, random_model(request.param, "hidden_reference")


@torch.no_grad()
def test_logits_and_losses_equal_materialized_attention(pair: Any) -> None:
    backbone, prefix, given, model = pair
    (row,) = random_ids(6)
    expected = slow_logits(model, row[None], torch.ones_like(row)[None], given=given)
    hook = HideToken(TOKEN, LAYERS)
    with backbone.hooked(hook):
        found = backbone(row[None], prefix)
        ids, _ = pad([row, row[:4]], "right")
        labels = torch.where(torch.tensor([[True] * 6, [True] * 4 + [False] * 2]), ids, -100)
        _, losses = backbone.loss(ids, labels, prefix)
    assert (found - expected).abs().max() < 1e-10
    assert (backbone(row[None], prefix) - expected).abs().max() > 1e-3
    of_row = torch.nn.functional.cross_entropy(expected[0, :-1], row[1:], reduction="none")
    torch.testing.assert_close(losses, torch.stack([of_row.sum(), of_row[:3].sum()]))
    assert hook.began == 2


@torch.no_grad()
def test_generation_equals_materialized_attention(pair: Any) -> None:
    backbone, prefix, given, model = pair
    rows = random_ids(*LENGTHS)
    expected = []
    for row in rows:
        text = row
        for _ in range(5):
            logits = slow_logits(model, text[None], torch.ones_like(text)[None], given=given)
            text = torch.cat([text, logits[0, -1].argmax()[None]])
        expected.append(text[len(row) :].tolist())
    end = expected[0][2]  # rows leave the batch at different steps
    cut = [new[: new.index(end)] if end in new else new for new in expected]
    hook = HideToken(TOKEN, LAYERS)
    ids, mask = pad(rows, "left", filler=11)
    with backbone.hooked(hook):
        assert generate(backbone, Ending(end), ids, mask, prefix, 5) == cut
    assert generate(backbone, Ending(end), ids, mask, prefix, 5) != cut
    assert hook.began == 1
    assert sorted(hook.rows[0]) == [row for row in range(len(rows)) if len(cut[row]) > min(map(len, cut))]


@torch.no_grad()
def test_an_observer_sees_the_weights_of_its_layers_alone(pair: Any) -> None:
    backbone, prefix, _, _ = pair
    (row,) = random_ids(6)
    look = Look([0, 3])
    with backbone.hooked(look):
        found = backbone(row[None], prefix)
    assert torch.equal(found, backbone(row[None], prefix))
    assert [layer for layer, _, _ in look.seen] == [0, 3]
    for _, attention, output in look.seen:
        weights = attention.weights()
        assert weights.shape == (1, attention.query.shape[1], 6, VIRTUAL + 6)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        assert not weights[..., VIRTUAL:].triu(1).any()
        torch.testing.assert_close(attention.output(weights), output)
        heads = torch.tensor([1, 0])
        some = attention.weights(heads, slice(2, 4))
        torch.testing.assert_close(some, weights[:, heads, 2:4])
        torch.testing.assert_close(attention.output(some, heads), output[:, heads, 2:4])
        assert attention.prefix == VIRTUAL


@torch.no_grad()
def test_hooks_are_called_in_order_and_removed(llama: Backbone) -> None:
    (row,) = random_ids(6)
    first, second = Look([2]), Look([2])
    hooks = first, HideToken(0, [2]), second
    with suppress(RuntimeError), llama.hooked(*hooks[:2]), llama.hooked(second):
        assert llama.hooks == hooks
        llama(row[None])
        raise RuntimeError("inside")
    assert llama.hooks == ()
    assert not torch.equal(first.seen[0][2], second.seen[0][2])


@torch.no_grad()
def test_virtual_tokens_are_computed_without_hooks(llama: Backbone) -> None:
    look = Look(range(4))
    with llama.hooked(look):
        moved("dham", llama).prefix()
    assert not look.seen


@torch.no_grad()
def test_a_hook_without_a_layer_with_attention_is_refused() -> None:
    backbone = hybrid_backbone("lfm2")
    assert backbone.attention_layers == (1, 3)
    for layers, named in (([0], "0"), ([0, 2], "0, 2"), ([9], "9")):
        message = f"HideToken would have no effect: it names layers {named}, but only layers 1, 3 of"
        with pytest.raises(UserError, match=message), backbone.hooked(HideToken(0, layers)):
            pass
    look = Look(range(4))  # whatever layers there are
    with backbone.hooked(look, Look([])):
        backbone(random_ids(6)[0][None])
    assert [layer for layer, _, _ in look.seen] == [1, 3]


@torch.no_grad()
def test_a_hook_on_a_backbone_without_attention_is_refused() -> None:
    message = "it names layers 0, but no layer of backbone 'tiny' has attention"
    with pytest.raises(UserError, match=message), hybrid_backbone("mamba").hooked(HideToken(0, [0])):
        pass

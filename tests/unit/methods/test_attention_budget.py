"""The attention budget of backbones: the identity, and attention of transformers over the same tokens."""

from typing import Any

import pytest
import torch
from torch import Tensor

from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.attention_budget import budget_layers, head_attention, measure_budget
from promptstage.lightning_modules.backbone.attention_hooks import Silenced
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import FAMILIES, LAYERS, moved, pad, random_ids, random_model, tiny_backbone

LENGTHS = (7, 5)


def batch(side: str = "left") -> Tokens:
    """Two texts: a question of three tokens after the first, then the rationale."""
    ids, mask = pad(random_ids(*LENGTHS), side)
    width = ids.shape[1]
    starts = torch.tensor([width - length if side == "left" else 0 for length in LENGTHS])[:, None]
    ends = starts + torch.tensor(LENGTHS)[:, None]
    question = torch.cat([starts + 1, starts + 4], dim=1)
    return Tokens(
        ids, mask, torch.where(mask == 1, ids, -100), question, torch.cat([starts + 4, ends], dim=1)
    )


def prefix_of(name: str, backbone: Backbone) -> Prefix:
    prefix = moved(name, backbone).prefix()
    assert prefix is not None
    return prefix.detach()


@pytest.mark.parametrize("name", ["prefix", "prompt", "late", "dham-replace"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_identity_holds(family: str, name: str) -> None:
    backbone = tiny_backbone(family)
    prefix = prefix_of(name, backbone)
    measures = measure_budget(backbone, batch(), prefix)
    layers = budget_layers(backbone, prefix)
    assert layers == (list(range(2, LAYERS)) if name == "late" else list(range(LAYERS)))
    assert measures.share.shape == (2, len(layers), 4, 3)
    assert measures.error.shape == (2, len(layers), 4, 2)
    assert float(measures.error.max()) <= 1e-12
    assert 0 < float(measures.share.min()) <= float(measures.share.max()) < 1


def test_windows_hide_the_same_content() -> None:
    backbone = tiny_backbone("gemma3", sliding_window=3)
    measures = measure_budget(backbone, batch(), prefix_of("prefix", backbone))
    assert float(measures.error.max()) <= 1e-12


def test_padding_does_not_matter() -> None:
    backbone = tiny_backbone()
    prefix = prefix_of("prefix", backbone)
    left, right = (measure_budget(backbone, batch(side), prefix) for side in ("left", "right"))
    assert torch.allclose(left.share, right.share, rtol=0, atol=1e-12)
    alone = measure_budget(backbone, batch().select([1]), prefix)
    assert torch.allclose(alone.share[0], left.share[1], rtol=0, atol=1e-12)


def eager_attention(ids: Tensor) -> list[Tensor]:
    """Return the weights (H, n, n) of each layer of transformers' eager attention."""
    model: Any = random_model("llama", "eager")
    return [weights[0] for weights in model(ids[None], output_attentions=True).attentions]


@torch.no_grad()
def test_shares_are_those_of_transformers() -> None:
    """A prompt of real tokens' embeddings takes the attention that these tokens have in the text.

    transformers computes its softmax in float32.
    """
    backbone = tiny_backbone("llama")
    first, content = random_ids(3, LENGTHS[0])
    prefix = stage_prefix(backbone, [0], [backbone.embedding[first].detach()], tokens=first)
    tokens = batch("right").select([0])
    tokens.input_ids[0] = content
    measures = measure_budget(backbone, tokens, prefix)
    for layer, weights in enumerate(eager_attention(torch.cat([first, content]))):
        taken = weights[:, 3:, :3].sum(-1)
        assert torch.allclose(measures.share[0, layer, :, 0], taken.mean(1), rtol=0, atol=1e-6)
        assert torch.allclose(measures.share[0, layer, :, 1], taken[:, 1:4].mean(1), rtol=0, atol=1e-6)
        assert torch.allclose(measures.share[0, layer, :, 2], taken[:, 4:].mean(1), rtol=0, atol=1e-6)
        attention = head_attention(backbone, tokens, prefix, layer, 1)
        assert torch.allclose(attention.with_prefix, weights[1, 3:], rtol=0, atol=1e-6)
        assert torch.allclose(attention.share, taken[1], rtol=0, atol=1e-6)


def test_changed_attention_is_rejected() -> None:
    backbone = tiny_backbone()
    prefix = prefix_of("prefix", backbone)
    message = "the attention budget cannot be computed while Silenced changes"
    with backbone.hooked(Silenced(LAYERS)), pytest.raises(UserError, match=message):
        measure_budget(backbone, batch(), prefix)

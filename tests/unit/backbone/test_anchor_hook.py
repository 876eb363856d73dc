"""The hook of anchor re-weighting against a slow NumPy reference, in layers of several families."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.anchor_hook import ReweightedAnchors
from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention
from promptstage.lightning_modules.backbone.next_tokens import next_token_logits
from tests.unit.backbone.tiny import LAYERS, moved, tiny_backbone

HEADS, CLASSES = 4, 3


class Recorded(AttentionHook):
    """Attention and output of all layers."""

    def __init__(self) -> None:
        self.layers = range(LAYERS)
        self.seen: dict[int, tuple[LayerAttention, Tensor]] = {}

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        self.seen[layer] = attention, output
        return output


def slow_output(attention: LayerAttention, beta: Tensor, anchors: Any, classes: Any, row: Any) -> np.ndarray:
    """The output of all rows with re-weighted attention, one product at a time; no sinks, no cap."""
    query, key, value = (
        part.detach().double().numpy() for part in (attention.query, attention.key, attention.value)
    )
    batch, heads, rows = query.shape[:3]
    groups, prefix = heads // key.shape[1], attention.prefix
    result = np.zeros((batch, heads, rows, value.shape[3]))
    for b in range(batch):
        for h in range(heads):
            for i in range(rows):
                scores = [
                    float(np.dot(query[b, h, i], key[b, h // groups, j])) * attention.scaling
                    for j in range(prefix + i + 1)
                ]
                weights = np.exp(np.array(scores) - max(scores))
                weights /= weights.sum()
                if i == row[b]:
                    for anchor, own in zip(anchors[b], classes[b], strict=True):
                        if own >= 0:
                            weights[prefix + anchor] *= np.exp(float(beta[h, own]))
                for j, weight in enumerate(weights):
                    result[b, h, i] += weight * value[b, h // groups, j]
    return result


def positions() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids of two texts, the shorter padded on the right, anchors, classes and rows."""
    ids = torch.arange(4, 24).reshape(2, 10)
    return (
        ids,
        torch.tensor([[1, 4, 6], [2, 3, 0]]),
        torch.tensor([[0, 2, 1], [1, 1, -1]]),
        torch.tensor([9, 6]),
    )


def drawn(shape: Sequence[int], seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("prompt", ["pretrained", "prefix"])
def test_the_hook_equals_the_slow_reference(family: str, prompt: str) -> None:
    backbone = tiny_backbone(family)
    prefix = moved(prompt, backbone).prefix()
    ids, anchors, classes, row = positions()
    beta = drawn((LAYERS, HEADS, CLASSES))
    hook = ReweightedAnchors(dict(enumerate(beta)), anchors, classes, row)
    before, after = Recorded(), Recorded()
    with torch.no_grad(), backbone.hooked(before, hook, after):
        next_token_logits(backbone, ids, row + 1, prefix)
    for layer in range(LAYERS):
        attention, plain = before.seen[layer]
        expected = slow_output(attention, beta[layer], anchors.tolist(), classes.tolist(), row.tolist())
        for example, last in enumerate(row.tolist()):
            own = after.seen[layer][1][example, :, : last + 1]
            assert np.abs(own.numpy() - expected[example, :, : last + 1]).max() < 1e-9
            # No other row changes.
            assert torch.equal(own[:, :last], plain[example, :, :last])


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "gemma3"])
def test_capped_scores_and_sinks_are_those_of_the_layer(family: str) -> None:
    """Factors of 1 + ε change the output by ε times the layer's own attention."""
    backbone = tiny_backbone(family)
    ids, anchors, classes, row = positions()
    beta = torch.zeros(LAYERS, HEADS, CLASSES, dtype=torch.float64)
    beta[0] = np.log(2.0)
    before, after = Recorded(), Recorded()
    hook = ReweightedAnchors({0: beta[0]}, anchors, classes, row)
    with torch.no_grad(), backbone.hooked(before, hook, after):
        next_token_logits(backbone, ids, row + 1)
    attention, plain = before.seen[0]
    weights = attention.weights()
    for example, last in enumerate(row.tolist()):
        added = torch.zeros_like(weights)
        for anchor, own in zip(anchors[example].tolist(), classes[example].tolist(), strict=True):
            if own >= 0:
                added[example, :, last, anchor] = weights[example, :, last, anchor]
        expected = plain + attention.output(added)
        torch.testing.assert_close(
            after.seen[0][1][example, :, : last + 1], expected[example, :, : last + 1], rtol=0, atol=1e-12
        )

"""Attention budget of a batch: one forward pass with a hook in all layers that attend to the prompt."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.functional.attention_budget import Budget, attention_budget

ROWS = ("all", "question", "rationale")
ERRORS = ("weights", "output")
_Observe = Callable[[int, LayerAttention, Tensor], None]


class BudgetMeasures(NamedTuple):
    """Measures of B examples in L layers with H heads.

    Attributes:
        share: (B, L, H, 3), mean over the rows of ``ROWS`` of the share that the prompt takes; NaN without
            rows.
        error: (B, L, H, 2), greatest error over all rows of the identity, for each of ``ERRORS``.
    """

    share: Tensor
    error: Tensor


class HeadAttention(NamedTuple):
    """Attention of one head for one example: A^pt (n, p + c), A (n, c) and a (n,)."""

    with_prefix: Tensor
    without: Tensor
    share: Tensor


def budget_layers(backbone: Backbone, prefix: Prefix) -> list[int]:
    """Return the layers whose content attends to the prefix."""
    return [layer for layer in backbone.attention_layers if prefix.length(layer)]


@torch.no_grad()
def measure_budget(backbone: Backbone, tokens: Tokens, prefix: Prefix) -> BudgetMeasures:
    """Measure the attention budget of a batch; padding is excluded.

    Args:
        tokens: the batch, padded on either side.
        prefix: the soft prompt, shared by the batch.

    Raises:
        UserError: if an attention hook changes the weights.
    """
    tokens = tokens.right_padded()
    rows = _row_masks(tokens)
    shares: dict[int, Tensor] = {}
    errors: dict[int, Tensor] = {}

    def measure(layer: int, attention: LayerAttention, output: Tensor) -> None:
        means, worst = [], []
        for example in range(len(output)):  # one at a time: weights are n × n for every head
            budget = _budget_of(attention, output, example)
            mask = rows[example, :, None].to(budget.share)  # (3, 1, n)
            means.append(((budget.share * mask).sum(-1) / mask.sum(-1)).T)
            used = rows[example, 0]
            worst.append(torch.stack([part[:, used].amax(-1) for part in budget[3:]], dim=-1))
        shares[layer], errors[layer] = torch.stack(means), torch.stack(worst)

    layers = budget_layers(backbone, prefix)
    with _observing(backbone, layers, measure):
        _run(backbone, tokens, prefix)
    return BudgetMeasures(
        torch.stack([shares[layer] for layer in layers], dim=1),
        torch.stack([errors[layer] for layer in layers], dim=1),
    )


@torch.no_grad()
def head_attention(
    backbone: Backbone, tokens: Tokens, prefix: Prefix, layer: int, head: int
) -> HeadAttention:
    """Compute the attention of one head with and without the prefix.

    Args:
        tokens: a batch of one.
    """
    attentions: list[HeadAttention] = []

    def measure(_: int, attention: LayerAttention, output: Tensor) -> None:
        budget = _budget_of(attention, output, 0)
        attentions.append(HeadAttention(*(part[head] for part in budget[:3])))

    with _observing(backbone, [layer], measure):
        _run(backbone, tokens.right_padded(), prefix)
    return attentions[0]


class _Observer(AttentionHook):
    """Attention hook that calls a function with each layer's attention and output."""

    def __init__(self, layers: Iterable[int], observe: _Observe) -> None:
        self.layers = frozenset(layers)
        self.observe = observe

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        self.observe(layer, attention, output)
        return output


@contextmanager
def _observing(backbone: Backbone, layers: Iterable[int], observe: _Observe) -> Iterator[None]:
    backbone.check_weights("the attention budget")
    with backbone.hooked(_Observer(layers, observe)):
        yield


def _run(backbone: Backbone, tokens: Tokens, prefix: Prefix) -> None:
    arguments, _ = backbone.packed(tokens.input_ids, tokens.attention_mask.sum(1), prefix)
    backbone.body(**arguments)


def _budget_of(attention: LayerAttention, output: Tensor, example: int) -> Budget:
    """Compute the budget of one example's heads, with scores in float32 or better."""
    groups = attention.query.shape[1] // attention.key.shape[1]
    query, key, value = (part[example] for part in (attention.query, attention.key, attention.value))
    dtype = torch.promote_types(query.dtype, torch.float32)
    key, value = (part.to(dtype).repeat_interleave(groups, dim=0) for part in (key, value))
    scores = (query.to(dtype) * attention.scaling) @ key.mT
    seen = attention.seen[example if len(attention.seen) > 1 else 0]
    sinks = attention.sink_logits
    return attention_budget(
        scores,
        seen,
        attention.prefix,
        value,
        output[example],
        attention.softcap,
        None if sinks is None else sinks[:, None, None],
    )


def _row_masks(tokens: Tokens) -> Tensor:
    """Return masks (B, 3, n) of the rows of ``ROWS``."""
    columns = torch.arange(tokens.input_ids.shape[1], device=tokens.input_ids.device)
    spans = [
        (columns >= span[:, :1]) & (columns < span[:, 1:]) for span in (tokens.question, tokens.rationale)
    ]
    content = tokens.attention_mask.bool()
    return torch.stack([content, *(span & content for span in spans)], dim=1)

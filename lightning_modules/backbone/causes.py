"""Causes of a difference between a model behind a prefix and behind the same tokens as text.

Each is a property of the model that a small experiment shows; there is no branch on model families.
"""

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.attention_hooks import (
    AttentionHook,
    KeysValues,
    LayerAttention,
)
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.implementation import attention_implementation
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.prefix import MixerState

_ROUNDING = 1e-3  # in standard deviations of the logits


class _Silenced(AttentionHook):
    """Attention whose output is zero in all layers."""

    def __init__(self, num_layers: int) -> None:
        self.layers = range(num_layers)

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        return torch.zeros_like(output)


@torch.no_grad()
def find_cause(backbone: FrozenModel, tokens: Tensor) -> str | None:
    """Return why the model cannot take a prefix, as a clause; None if no experiment shows it.

    Args:
        tokens: (n,) ordinary token ids, the first and last of which differ.
    """
    model, ids = backbone.model, tokens[None]

    def run(ids: Tensor, positions: Tensor | None = None) -> Tensor:
        return model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]

    try:
        backbone.record_states(model.get_input_embeddings()(ids))
    except Exception:
        return "it cannot be run on embeddings instead of token ids"
    with attention_implementation(model, "eager"):
        plain = run(ids)
        if _differ(run(torch.cat([ids[:, :-1], ids[:, :1]], 1))[:-1], plain[:-1]):
            return "its attention is not causal"
        positions = torch.arange(len(tokens), device=tokens.device)[None]
        positions_ignored = not _differ(run(ids, 2 * positions), run(ids, positions))
    if backbone.mixers:  # which pass information between tokens, as attention does
        return "its token mixers ignore the state in the cache" if _starts_anew(backbone, ids) else None
    other = torch.cat([ids[:, -1:], ids[:, 1:]], 1)
    keys, logits = [], []
    for tokens in (ids, other):
        hook = KeysValues(1)
        context = AttentionContext(hooks=[hook, _Silenced(backbone.num_layers)])
        logits.append(model(input_ids=tokens, use_cache=False, context=context).logits[0, 1:])
        keys += [part[0, :, 1:].flatten() for part in hook.recorded.get(0, ())]
    if keys and _differ(torch.cat(keys[:2]), torch.cat(keys[2:])):
        return "its keys and values of a token depend on other tokens"
    if _differ(*logits):
        return "its layers pass information between tokens outside attention"
    return "it ignores position_ids" if positions_ignored else None


def _starts_anew(backbone: FrozenModel, ids: Tensor) -> bool:
    """Return whether the first token mixer, if no attention precedes it, ignores its initial state."""
    layer, half = min(backbone.mixing_layers), ids.shape[1] // 2
    if layer not in backbone.mixers:
        return False
    after = []
    for pieces in ((ids,), (ids[:, :half], ids[:, half:])):
        states: dict[int, MixerState] = {}
        for piece in pieces:
            context = AttentionContext(mixing=MixerPass(states=states))
            backbone.model(input_ids=piece, use_cache=False, context=context)
        after.append(states[layer])
    pairs = [(one, other) for one, other in zip(*after, strict=True) if one is not None and other is not None]
    return any(_differ(one, other) for one, other in pairs)


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > _ROUNDING * other.std())

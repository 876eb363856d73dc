"""Causes of a difference between a model behind a prefix and behind the same tokens as text.

Each is a property of the model that a small experiment shows; there is no branch on model families.
"""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.attention_hooks import KeysValues, Silenced
from promptstage.lightning_modules.backbone.comparison import differ
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.implementation import attention_implementation


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
        if differ(run(torch.cat([ids[:, :-1], ids[:, :1]], 1))[:-1], plain[:-1]):
            return "its attention is not causal"
        positions = torch.arange(len(tokens), device=tokens.device)[None]
        positions_ignored = not differ(run(ids, 2 * positions), run(ids, positions))
    if backbone.mixers:  # which pass information between tokens, as attention does
        return None
    other = torch.cat([ids[:, -1:], ids[:, 1:]], 1)
    keys, logits = [], []
    for tokens in (ids, other):
        hook = KeysValues(1)
        context = AttentionContext(hooks=[hook, Silenced(backbone.num_layers)])
        logits.append(model(input_ids=tokens, use_cache=False, context=context).logits[0, 1:])
        keys += [part[0, :, 1:].flatten() for part in hook.recorded.get(0, ())]
    if keys and differ(torch.cat(keys[:2]), torch.cat(keys[2:])):
        return "its keys and values of a token depend on other tokens"
    if differ(*logits):
        cache = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
        if cache is not None and type(cache).__module__ != DynamicCache.__module__:
            return f"its layers keep states in a cache of their own, {type(cache).__name__}"
        return "its layers pass information between tokens outside attention"
    return "it ignores position_ids" if positions_ignored else None

"""One decoding step: the logits after new tokens that follow a cache."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def end_tokens(backbone: FrozenModel, tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the token ids that end a generation: the tokenizer's and those of the generation config."""
    config = getattr(backbone.model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    ids = [named] if isinstance(named, int) else list(named or [])
    return {*ids, tokenizer.eos_token_id}


def next_logits(
    backbone: FrozenModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor,
    cache: PrefixCache,
    context: AttentionContext,
) -> Tensor:
    """Compute logits (B, vocabulary) after the last column of ``input_ids`` (B, n), which follow a cache.

    Args:
        attention_mask: (B, columns in the cache + n), 1 on content; None: no padding.
        position_ids: (B, n).
        cache: begins with the prefix; the columns are added to it.
    """
    if backbone.mixers:
        width = input_ids.shape[1]
        # A single token is never padding.
        real = None if attention_mask is None or width == 1 else attention_mask[:, -width:].bool()
        context.mixing = MixerPass(lambda layer: real, cache.states)
    context.holds_prefix, context.content = cache.holds_prefix, attention_mask
    # Given a number, some models skip the other rows in layers that do not cache, but hooks need all.
    kept = torch.tensor([-1], device=input_ids.device) if context.hooks else 1
    return backbone.model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        use_cache=True,
        logits_to_keep=kept,
        context=context,
        **{backbone.cache_argument: cache},
    ).logits[:, -1]

"""Batched decoding with a prefix."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from promptstage.lightning_modules.backbone.trace import GenerationTrace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TokenChoice = Callable[[Tensor, Sequence[int]], Tensor]
"""Chooses the next tokens (r,) from logits (r, vocabulary), given the indices of the r rows."""


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


@torch.no_grad()
def generate(
    backbone: FrozenModel,
    tokenizer: "PreTrainedTokenizerBase",
    input_ids: Tensor,
    attention_mask: Tensor,
    prefix: Prefix | None,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    trace: GenerationTrace | None = None,
    choose: TokenChoice | None = None,
    num_samples: int = 1,
) -> list[list[int]]:
    """Decode until an end token, a stop string or the limit.

    Finished rows leave the batch, so that long generations do not hold up short ones.

    Args:
        input_ids: (B, n) prompts, padded on the left.
        attention_mask: (B, n), 1 on content.
        prefix: shared by the batch, or one per example.
        max_new_tokens: limit per example.
        stop: strings that end a generation once they are in its text (they stay in the text).
        trace: filled with the last layer's activations.
        choose: the rule that chooses the next tokens; None: the most likely ones (greedy decoding).
        num_samples: number of generations for each prompt; more than one need a shared prefix, and no trace.

    Returns:
        B · ``num_samples`` lists of new token ids, without the end token; the samples of a prompt in turn.

    Raises:
        FloatingPointError: if the largest logit of a next token is infinite or NaN.
    """
    batch, width = input_ids.shape
    first = 0 if prefix is None else prefix.num_positions
    cache = PrefixCache(prefix, backbone.num_layers, width + max_new_tokens, backbone.attention_layers)
    mask = attention_mask
    padded = not bool(mask.all())
    positions = first + (mask.cumsum(-1) - 1).clamp(min=0)
    ends = torch.tensor(sorted(end_tokens(backbone, tokenizer)), device=input_ids.device)
    # Bytes of a string bound its tokens; one more for a token that began before it.
    tail = max((len(text.encode()) for text in stop), default=0) + 1
    outputs: list[list[int]] = [[] for _ in range(batch * num_samples)]
    alive = list(range(len(outputs)))
    step_ids = input_ids
    with nullcontext() if trace is None else trace.watching():
        backbone.begin_hooks()
        for step in range(max_new_tokens):
            context = AttentionContext(prefix=prefix, prefix_in_cache=True, hooks=backbone.hooks)
            backbone.shards.begin_pass()
            logits = next_logits(backbone, step_ids, mask if padded else None, positions, cache, context)
            if trace is not None and step:
                trace.step(alive)
            if num_samples > 1 and not step:
                copies = torch.arange(batch, device=logits.device).repeat_interleave(num_samples)
                logits, mask, positions = logits[copies], mask[copies], positions[copies]
                cache.select(copies)
                for hook in backbone.hooks:
                    hook.select(copies)
            values, tokens = logits.max(-1)
            if choose is not None:
                tokens = choose(logits, alive)
            tokens = torch.where(values.isfinite(), tokens, -1)
            finished = torch.isin(tokens, ends).tolist()
            for row, token in enumerate(tokens.tolist()):
                if token < 0:
                    backbone.shards.join_remaining_passes()  # of other ranks, before all of them fail
                    raise FloatingPointError("logits are not finite: check the backbone and the prompt")
                if finished[row]:
                    continue
                outputs[alive[row]].append(token)
                if stop:
                    text = tokenizer.decode(outputs[alive[row]][-tail:])
                    finished[row] = any(string in text for string in stop)
            if step + 1 == max_new_tokens:
                finished = [True] * len(alive)
            if any(finished):
                done, remaining = (
                    [row for row, state in enumerate(finished) if state == value] for value in (True, False)
                )
                if trace is not None:
                    trace.finish(done, [alive[row] for row in done])
                if not remaining:
                    break
                rows = torch.tensor(remaining, device=input_ids.device)
                cache.select(rows)
                for hook in backbone.hooks:
                    hook.select(rows)
                tokens, mask, positions = tokens[rows], mask[rows], positions[rows]
                alive = [alive[row] for row in remaining]
                if prefix is not None:
                    prefix = prefix.select(rows)
            step_ids = tokens[:, None]
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
            positions = positions[:, -1:] + 1
    backbone.shards.join_remaining_passes()
    return outputs

"""Batched decoding with a prefix."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.prefix import LayerPrefix, Prefix
from promptstage.lightning_modules.backbone.trace import GenerationTrace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TokenChoice = Callable[[Tensor, Sequence[int]], Tensor]
"""Chooses the next tokens (r,) from logits (r, vocabulary), given the indices of the r rows."""


class _PrefixCacheLayer(CacheLayerMixin):
    """One layer's keys and values in a buffer of fixed size: the prefix, then the content.

    Lengths reported to transformers exclude the prefix. If what the model caches has other shapes than the
    keys and values that it attends to, such as latents (MLA), the buffer holds the content only.
    """

    is_sliding = False

    def __init__(self, prefix: LayerPrefix | None, capacity: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.capacity = capacity
        self.start = 0 if prefix is None else prefix[0].shape[2]
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, width = key_states.shape
        if self.prefix is not None and not (
            self.prefix[0].shape[1::2] == (heads, width)
            and self.prefix[1].shape[1::2] == value_states.shape[1::2]
        ):
            self.prefix, self.start = None, 0
        size = self.start + self.capacity
        self.keys = key_states.new_empty(batch, heads, size, width)
        self.values = value_states.new_empty(batch, value_states.shape[1], size, value_states.shape[-1])
        if self.prefix is not None:
            self.keys[:, :, : self.start] = self.prefix[0]
            self.values[:, :, : self.start] = self.prefix[1]
            self.prefix = None
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        begin = self.start + self.length
        self.length += key_states.shape[2]
        end = self.start + self.length
        self.keys[:, :, begin:end] = key_states
        self.values[:, :, begin:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    def select(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:  # None in layers that reuse another's
            self.keys, self.values = self.keys[rows], self.values[rows]


class PrefixCache(Cache):
    """A key-value cache that begins with a prefix, whose length may differ between layers."""

    def __init__(self, prefix: Prefix | None, num_layers: int, capacity: int) -> None:
        """Make room for ``capacity`` content tokens in each of ``num_layers`` layers."""
        entries = (None,) * num_layers if prefix is None else prefix.layers
        self.buffers = [_PrefixCacheLayer(entry, capacity) for entry in entries]
        super().__init__(layers=list(self.buffers))

    def holds_prefix(self, layer: int) -> bool:
        """Return whether a layer's keys and values begin with its prefix, once the layer has been run."""
        return self.buffers[layer].start > 0

    def select(self, rows: Tensor) -> None:
        """Keep some rows of the batch, or repeat some."""
        for layer in self.buffers:
            layer.select(rows)


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
    context.holds_prefix = cache.holds_prefix
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
    cache = PrefixCache(prefix, backbone.num_layers, width + max_new_tokens)
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

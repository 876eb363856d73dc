"""Soft prompts, literally: decoder blocks run one by one on a sequence that really grows.

Independent of the product: its attention and prefix code are not used, nothing is computed ahead, shared
or hooked. Masks and positions are written out for every layer. The one thing not taken from transformers'
eager attention is the softmax, because that is in float32 there; ``test_reference.py`` compares the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def causal(real: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, n, n): every row sees itself, and what is real before it.

    Args:
        real: (B, n), True on virtual tokens and content, False on padding.
    """
    batch, n = real.shape
    mask = torch.full((batch, 1, n, n), float("-inf"), dtype=dtype)
    for b in range(batch):
        for i in range(n):
            for j in range(i + 1):
                if real[b, j] or i == j:
                    mask[b, 0, i, j] = 0.0
    return mask


class SlowModel:
    """A transformers model as pieces: embeddings, blocks, final norm, head."""

    def __init__(self, model: Any) -> None:
        self.model, self.body = model, model.base_model
        self.learned = getattr(self.body, "wpe", None)  # GPT-2's positions, learned
        self.blocks = list(self.body.h if self.learned is not None else self.body.layers)
        self.norm = self.body.ln_f if self.learned is not None else self.body.norm

    def enter(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Hidden states at the input of layer 0."""
        return embeddings if self.learned is None else embeddings + self.learned(positions)

    def block(self, layer: int, hidden: Tensor, positions: Tensor, real: Tensor, **kwargs: Any) -> Tensor:
        """One decoder block over (B, n, d) at ``positions`` (B, n)."""
        mask = causal(real, hidden.dtype)
        if self.learned is None:
            kinds = getattr(self.model.config, "layer_types", None)
            rotary = self.body.rotary_emb
            own = (kinds[layer],) if self.model.config.model_type == "gemma3_text" else ()
            kwargs["position_embeddings"] = rotary(hidden, positions, *own)
        return self.blocks[layer](hidden, attention_mask=mask, position_ids=positions, **kwargs)

    def leave(self, hidden: Tensor) -> Tensor:
        """Logits of the last layer's output."""
        logits = self.model.get_output_embeddings()(self.norm(hidden))
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)


def slow_logits(
    model: Any,
    ids: Tensor,
    attention_mask: Tensor,
    starts: Sequence[int] = (),
    prompts: Sequence[Tensor] = (),
    mode: str = "accumulate",
    given: Mapping[int, tuple[Tensor, Tensor]] | None = None,
    materialized: dict[int, list[Tensor]] | None = None,
    rule: object = None,
) -> Tensor:
    """Logits (B, n, vocabulary) of the content behind stage prompts or given keys and values.

    Args:
        ids: (B, n), padded on either side.
        attention_mask: (B, n), 1 on content.
        starts: layer at whose input each prompt is put before the content, ascending.
        prompts: (m_i, d) each.
        mode: ``accumulate``: prompts stay to the last layer; ``replace``: the next one drops the last.
        given: for each layer, keys and values (key-value heads, m, head dim) of m virtual tokens.
        materialized: filled with each layer's attention weights, as :func:`slow_attention` does.
        rule: handed to an attention function that has one.
    """
    slow = SlowModel(model)
    batch, n = ids.shape
    lengths = [prompt.shape[0] for prompt in prompts]
    if given is not None:
        first = given[0][0].shape[1]
    else:
        first = sum(lengths) if mode == "accumulate" else max(lengths, default=0)
    positions = first + (attention_mask.cumsum(-1) - 1).clamp(min=0)
    hidden = slow.enter(model.get_input_embeddings()(ids), positions)
    real = attention_mask.bool()
    more = {"given": given, "materialized": materialized, "rule": rule}
    more = {name: value for name, value in more.items() if value is not None}
    for layer in range(len(slow.blocks)):
        for stage, start in enumerate(starts):
            if start != layer:
                continue
            if mode == "replace":
                hidden, positions, real = hidden[:, -n:], positions[:, -n:], real[:, -n:]
                begin = 0
            else:
                begin = sum(lengths[:stage])
            length = lengths[stage]
            own_positions = torch.arange(begin, begin + length).expand(batch, -1)
            rows = prompts[stage].expand(batch, -1, -1)
            if layer == 0:
                rows = slow.enter(rows, own_positions)
            before = hidden.shape[1] - n
            hidden = torch.cat([hidden[:, :before], rows, hidden[:, before:]], dim=1)
            positions = torch.cat([positions[:, :before], own_positions, positions[:, before:]], dim=1)
            visible = real.new_ones(batch, length)
            real = torch.cat([real[:, :before], visible, real[:, before:]], dim=1)
        hidden = slow.block(layer, hidden, positions, real, **more)
    return slow.leave(hidden[:, -n:])

"""Description of a loaded backbone: kinds of layers, positions."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_hooks import AttentionHook, LayerAttention
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.rope import batch_dependent_from
from promptstage.lightning_modules.backbone.text_reference import draw_tokens

# Kinds of layers with a limited view, with the settings of its size.
_VIEWS = {
    "sliding_attention": ("sliding window", "sliding_window"),
    "chunked_attention": ("chunk", "attention_chunk_size"),
}


class _Inputs(AttentionHook):
    """Inputs of attention by layer."""

    def __init__(self, layers: Collection[int]) -> None:
        self.layers = layers
        self.inputs: dict[int, LayerAttention] = {}

    def __call__(self, layer: int, attention: LayerAttention, output: Tensor) -> Tensor:
        self.inputs[layer] = attention
        return output


@torch.no_grad()
def describe_layers(backbone: FrozenModel) -> list[str]:
    """Describe what the layers of a verified backbone consist of, in short phrases."""
    hook, total = _Inputs(backbone.attention_layers), backbone.num_layers
    with backbone.hooked(hook):
        backbone.forward(draw_tokens(backbone, 0, 7)[0][None])
    inputs = hook.inputs
    phrases = [f"attention in {len(inputs)} of {total} layers"]
    if backbone.mixers:
        phrases.append(f"token mixers in {len(backbone.mixers)}")
    sinks = sum(attention.sink_logits is not None for attention in inputs.values())
    if sinks:
        phrases.append(f"attention sinks in {sinks}")
    caps = {attention.softcap for attention in inputs.values() if attention.softcap is not None}
    if caps:
        phrases.append(f"scores capped at {', '.join(f'{cap:g}' for cap in sorted(caps))}")
    widths = {(part.key.shape[-1], part.value.shape[-1]) for part in inputs.values()}
    if any(keys != values for keys, values in widths):
        phrases.append("keys and values of different widths")
    if len(widths) > 1:
        phrases.append("widths that differ between layers")
    if backbone.last_state_layer < total - 1:
        phrases.append(f"{total - 1 - backbone.last_state_layer} last layers without a state of their own")
    phrases.append(f"prompts can start at layers 0 to {backbone.last_state_layer}")
    return phrases


def describe_layer_types(config: Any) -> str:
    """Describe the kinds of layers that a text configuration names, with the sizes of their views."""
    types = getattr(config, "layer_types", None)
    if not types:
        window = getattr(config, "sliding_window", None)
        return f"sliding window of {window:,} tokens" if isinstance(window, int) else ""
    phrases = []
    for kind, count in Counter(types).most_common():
        view, setting = _VIEWS.get(kind, ("", ""))
        size = getattr(config, setting, None) if setting else None
        phrases.append(f"{count} {kind}" + (f" ({view} of {size:,} tokens)" if isinstance(size, int) else ""))
    return ", ".join(phrases)


def describe_positions(config: Any) -> str:
    """Describe the context length of a text configuration, and whether RoPE depends on the batch."""
    limit, length = getattr(config, "max_position_embeddings", None), batch_dependent_from(config)
    size = f"{limit:,}" if isinstance(limit, int) else "no limit in the configuration"
    if length is None:
        return f"{size}, independent of the batch"
    return f"{size}; above {length:,} tokens, dependent on the longest text of a batch"

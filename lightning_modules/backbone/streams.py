"""Hidden states of several streams, and embeddings that tokens have in each layer.

Gemma 3n's blocks pass on several streams, (streams, B, n, d), of which one is active: it enters attention and
the feed-forward network (AltUp: "Alternating Updates for Efficient Transformers", Baykal et al., 2023,
arXiv:2301.13310). Soft prompts enter, and features are taken from, the active stream.

Gemma 3n and the small Gemma 4 have an embedding per token and layer besides the embedding that enters the
first block. A virtual token has the padding token's, as transformers gives image and audio embeddings.
"""

from typing import Any

import torch
from torch import Tensor


def active_stream(states: Tensor, index: int) -> Tensor:
    """Return the active stream (B, n, d) of hidden states (B, n, d) or (streams, B, n, d)."""
    return states if states.ndim == 3 else states[index]


def replace_active_stream(states: Tensor, stream: Tensor, index: int) -> Tensor:
    """Return hidden states with another active stream (B, n, d)."""
    if states.ndim == 3:
        return stream
    return states.index_copy(0, torch.tensor([index], device=states.device), stream[None])


def per_layer_inputs(model: Any, token_ids: Tensor) -> dict[str, Tensor]:
    """Return the argument for the per-layer embeddings of tokens (B, n); empty if the model has none.

    Args:
        model: a Hugging Face causal language model, whose forward is given embeddings instead of token ids.
    """
    decoder = model.get_decoder()
    if not getattr(decoder, "hidden_size_per_layer_input", 0):
        return {}
    return {"per_layer_inputs": decoder.get_per_layer_inputs(token_ids)}

"""Hidden states of single tokens at the inputs of layers."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.hooks import input_hooks
from promptstage.lightning_modules.backbone.streams import active_stream
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix

CHUNK = 512  # tokens of a forward pass


@torch.no_grad()
def token_states(backbone: FrozenModel, tokens: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """Compute the states of tokens at the inputs of layers, each token in a text of its own.

    At layer 0, these are the embeddings. For deeper layers, the token follows the BOS (the end token, if the
    tokenizer has no BOS): models give the first position of a text an activation of its own, a hundred times
    as large, which is nearly the same for every token.

    Args:
        tokens: (V,) int64.
        layers: indices of layers.

    Returns:
        A tensor (V, d), float32, for each layer.
    """
    embed, device = backbone.model.get_input_embeddings(), backbone.embedding.device
    parts: list[list[Tensor]] = [[] for _ in layers]
    deep = {layer for layer in layers if layer > 0}
    first = first_token(backbone)
    prefix = None
    if deep and first is not None:
        leading = torch.tensor([first], device=device)
        prefix = stage_prefix(backbone, [0], [embed(leading)], tokens=leading)
    for chunk in tokens.to(device).split(CHUNK):
        inputs = {0: embed(chunk)[None]}
        if deep:
            arguments, _ = backbone.packed(chunk[:, None], torch.ones_like(chunk), prefix)
            with input_hooks((backbone.layers[at], partial(inputs.__setitem__, at)) for at in deep):
                backbone.body(**arguments)
        for part, layer in zip(parts, layers, strict=True):
            part.append(active_stream(inputs[layer], backbone.stream)[0].float())
    return [torch.cat(part) for part in parts]


def first_token(backbone: FrozenModel) -> int | None:
    """Return the token that single tokens follow: the BOS, else the end token, else None."""
    tokenizer = backbone.tokenizer
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next((token for token in ids if token is not None and token < len(backbone.embedding)), None)

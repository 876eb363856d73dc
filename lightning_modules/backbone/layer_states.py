"""Hidden states of decoder blocks: their inputs for embeddings, and their outputs pooled over a batch."""

from functools import partial

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.hooks import input_hooks, output_hooks
from promptstage.lightning_modules.backbone.streams import active_stream


def layer_inputs(backbone: FrozenModel, embeddings: Tensor, layers: list[int]) -> list[Tensor]:
    """Compute the inputs (B, n, d) of the given layers for embeddings (B, n, d)."""
    inputs: dict[int, Tensor] = {}
    with input_hooks((backbone.layers[layer], partial(inputs.__setitem__, layer)) for layer in layers):
        backbone.record_states(embeddings)
    return [active_stream(inputs[layer], backbone.stream) for layer in layers]


@torch.no_grad()
def pooled_outputs(
    backbone: FrozenModel, input_ids: Tensor, ends: Tensor, tokens: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the outputs of all decoder blocks, pooled during the forward pass.

    The first column is left out: activations of a BOS or first token are a hundred times those of others and
    would dominate any mean. Outputs are taken before the model's final norm.

    Args:
        input_ids: (B, n), padded on the right, if at all.
        ends: (B,), number of content columns of each row, at least 2.
        tokens: return one row for each token instead of an example's mean.

    Returns:
        Features (L, rows, d), float32 or better, and (rows,) the example in 0 to B − 1 of each row.
    """
    arguments, index = backbone.packed(input_ids, ends)
    used = index % input_ids.shape[1] > 0
    examples = index[used] // input_ids.shape[1]
    dtype = torch.promote_types(backbone.dtype, torch.float32)
    pooled: list[Tensor] = []

    def pool(states: Tensor) -> None:
        states = active_stream(states, backbone.stream)[0, used].to(dtype)
        if not tokens:
            sums = states.new_zeros(len(ends), states.shape[1]).index_add(0, examples, states)
            states = sums / (ends - 1)[:, None]
        pooled.append(states)

    with output_hooks((layer, pool) for layer in backbone.layers):
        backbone.body(**arguments)
    rows = examples if tokens else torch.arange(len(ends), device=ends.device)
    return torch.stack(pooled), rows

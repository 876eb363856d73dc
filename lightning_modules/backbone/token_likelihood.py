"""Likelihood of a text's tokens under the backbone, with gradients to their embeddings."""

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.streams import per_layer_inputs


def token_cross_entropies(
    backbone: FrozenModel, embeddings: Tensor, tokens: Tensor, leading: Tensor | None = None
) -> Tensor:
    """Compute the cross-entropy of each token after those before it, in nats.

    Args:
        embeddings: (m, d), inputs of the tokens; gradients flow to them.
        tokens: (m,) int64, targets.
        leading: (1,) int64, a BOS before the text.

    Returns:
        (m,) with a leading token; (m − 1,) without, since nothing predicts the first one.
    """
    ids = tokens
    if leading is not None:
        before = backbone.model.get_input_embeddings()(leading).detach()
        embeddings, ids = torch.cat([before, embeddings.to(before.dtype)]), torch.cat([leading, tokens])
    if len(ids) < 2:
        return torch.zeros(0, device=embeddings.device)
    predictors = torch.arange(len(ids) - 1, device=ids.device)
    arguments = {
        "inputs_embeds": embeddings[None].to(backbone.dtype),
        "position_ids": torch.arange(len(ids), device=ids.device)[None],
        "use_cache": False,
        "context": AttentionContext(),
        **per_layer_inputs(backbone.model, ids[None]),
    }
    return backbone.token_losses(arguments, predictors, ids[1:])

"""Terms of the saliency of attention, from one forward and backward pass over a frozen backbone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.attention_hooks import Observation
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.functional.saliency import AttentionTerms


def attention_terms(
    backbone: FrozenModel,
    input_ids: Tensor,
    labels: Tensor,
    layers: Sequence[int],
    prefix: Prefix | None = None,
) -> tuple[dict[int, AttentionTerms], Tensor]:
    """Compute the terms of some layers' saliency, with each example's summed cross-entropy as its loss.

    Gradients are computed down to the lowest of these layers only. Columns after a row's last label are not
    run: their ``content`` is False, as that of padding.

    Args:
        input_ids: (B, n), padded on the right, if at all.
        labels: (B, n), the token at each position, or -100.
        layers: indices of decoder blocks.
        prefix: prefix that all tokens attend to; no gradient flows to it.

    Returns:
        Terms by layer, and the loss of each example (B,).

    Raises:
        UserError: if an attention hook changes the weights that saliency is computed from.
    """
    backbone.check_weights("saliency")
    observation = Observation(layers)
    fixed = None if prefix is None else prefix.detach()
    with torch.enable_grad():
        with backbone.hooked(observation):
            total, per_example = backbone.loss(input_ids, labels, fixed)
        seen = {layer: observation.attention[layer] for layer in sorted(observation.layers)}
        gradients = torch.autograd.grad(total, [observation.output[layer] for layer in seen])
    columns = torch.arange(labels.shape[1], device=labels.device)
    content = columns < torch.where(labels != -100, columns + 1, 0).amax(1)[:, None]
    terms = {
        layer: AttentionTerms(
            state.query.detach(),
            state.key.detach(),
            state.value.detach(),
            gradient,
            state.scaling,
            state.prefix,
            content,
            state.window,
            softcap=state.softcap,
            sink_logits=None if state.sink_logits is None else state.sink_logits.detach(),
            chunk=state.chunk,
            first=state.first,
        )
        for (layer, state), gradient in zip(seen.items(), gradients, strict=True)
    }
    return terms, per_example.detach()

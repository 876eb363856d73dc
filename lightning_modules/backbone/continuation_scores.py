"""Log-probabilities of continuations, from one forward pass without a cache."""

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.hooks import input_hooks
from promptstage.lightning_modules.backbone.prefix import Prefix

ROWS = 256  # rows of logits in memory at a time


@torch.no_grad()
def continuation_scores(
    backbone: FrozenModel, input_ids: Tensor, starts: Tensor, ends: Tensor, prefix: Prefix | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the log-probability of tokens ``starts`` to ``ends`` - 1 of each sequence after those before.

    Padding is removed before the model runs; attention hooks see the batch padded on the right.

    Args:
        input_ids: (B, n), padded on the right, if at all.
        starts: (B,), first column of each continuation, at least 1.
        ends: (B,), number of tokens of each sequence, at least 2.
        prefix: prefix that all tokens attend to.

    Returns:
        (B,) sums of log-probabilities in nats, float32 or better, and (B,) bool, True where each token of the
        continuation is the most likely one.
    """
    # Nothing is predicted by the last token: it is not run.
    arguments, packed = backbone.packed(input_ids, ends - 1, prefix)
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    predicts = (columns >= starts[:, None] - 1) & (columns < ends[:, None] - 1)
    predictors = predicts.flatten()[packed].nonzero()[:, 0]
    places = packed[predictors]
    targets, rows = input_ids.flatten()[places + 1], places // input_ids.shape[1]
    head = backbone.model.get_output_embeddings()
    if backbone.has_linear_head:
        hidden = backbone.body(**arguments).last_hidden_state[0, predictors]
        parts = (head(part) for part in hidden.split(ROWS))
    else:
        with input_hooks([(head, lambda states: states[:, predictors])]):
            parts = iter(backbone.model(**arguments).logits[0].split(ROWS))
    sums: Tensor | None = None
    likeliest = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    for logits, part, own in zip(parts, targets.split(ROWS), rows.split(ROWS), strict=True):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = logits.gather(1, part[:, None])[:, 0] - logits.logsumexp(-1)
        sums = chosen.new_zeros(len(input_ids)) if sums is None else sums
        sums = sums.index_add(0, own, chosen)
        likeliest[own[logits.argmax(-1) != part]] = False
    assert sums is not None
    return sums, likeliest

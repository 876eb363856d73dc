"""Dynamic Prompt Corruption (DPC): the trigger, and the corruption of the prompt (§3.2-3.3).

Fan et al., "Improving complex reasoning with Dynamic Prompt Corruption", ICLR 2025 (arXiv:2503.13208). Paper
symbols: ``S_pr(i)`` is the flow from the prompt to rationale token i in the last layer (eq. 12-13), β the
level above which a token is affected, R the share of affected tokens in the rationale's second half (eq. 11),
j the virtual token where most flow accumulates (eq. 6), Γ the percentage of small entries set to zero.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from promptstage.lightning_modules.functional.information_flow import accumulates

BetaMode = Literal["mean", "median", "max"]
BETA_MODES = get_args(BetaMode)


class Trigger(NamedTuple):
    """R (eq. 11) and β of each example, both (B,); NaN for a rationale of fewer than 2 tokens."""

    ratio: Tensor
    beta: Tensor


def trigger(to_row: Tensor, lengths: Tensor, mode: BetaMode = "mean") -> Trigger:
    """Compute R, the share of tokens in the second half with S_pr(i) > β (DPC eq. 11).

    β is the mean of the first half as in the paper, its median or its maximum. If the number of tokens is
    odd, the second half has one more.

    Args:
        to_row: (B, T), S_pr(i) of each rationale token.
        lengths: (B,), number of tokens of each rationale, at most T.
        mode: statistic of the first half that gives β.

    >>> trigger(torch.tensor([[1.0, 3.0, 2.0, 4.0]]), torch.tensor([4]))
    Trigger(ratio=tensor([0.5000]), beta=tensor([2.]))
    """
    columns = torch.arange(to_row.shape[1], device=to_row.device)
    half, enough = lengths[:, None] // 2, lengths >= 2
    first = columns < half
    second = (columns >= half) & (columns < lengths[:, None])
    former = torch.where(first, to_row, torch.nan)
    if mode == "mean":
        beta = former.nanmean(1)
    elif mode == "median":
        beta = former.nanquantile(0.5, dim=1) if to_row.shape[1] else former.nanmean(1)
    else:
        beta = torch.where(first, to_row, -torch.inf).amax(1) if to_row.shape[1] else former.nanmean(1)
    beta = torch.where(enough, beta, torch.nan)
    affected = ((to_row > beta[:, None]) & second).sum(1)
    ratio = torch.where(enough, affected.to(to_row.dtype) / second.sum(1), torch.nan)
    return Trigger(ratio, beta)


class Located(NamedTuple):
    """Virtual token and layer with the greatest s_i, both (B,) int64; -1 if there is none."""

    token: Tensor
    layer: Tensor


def accumulating_token(from_token: Tensor, layers: list[int], alpha: float | None = None) -> Located:
    """Find j, the virtual token where most flow to question and rationale accumulates (DPC §3.3, eq. 6).

    Args:
        from_token: (B, K, M), s_i of M virtual tokens in K layers; NaN for those that a layer does not see.
        layers: the K layers.
        alpha: only tokens that accumulate in their layer (eq. 6-7); None: any token, as in §3.3.
    """
    batch, _, tokens = from_token.shape
    allowed = ~from_token.isnan()
    if alpha is not None:
        allowed &= accumulates(from_token, alpha)
    scores = torch.where(allowed, from_token, -torch.inf).flatten(1)
    best = scores.argmax(1)
    exists = allowed.flatten(1).any(1)
    layer = torch.tensor(layers, device=best.device)[best // tokens]
    none = best.new_full((batch,), -1)
    return Located(torch.where(exists, best % tokens, none), torch.where(exists, layer, none))


def corrupt(vectors: Tensor, tokens: Tensor, gamma: float = 10.0, zero: bool = True) -> Tensor:
    """Set token j and the smallest entries of a prompt to zero, for each example (DPC §3.3).

    v_j ← 0; then, among the entries of all other vectors, the Γ % of smallest magnitude ← 0, separately in
    each part. Parts have different scales, such as keys and values of each layer.

    Args:
        vectors: (m, parts, width), virtual tokens of one stage; narrower parts end in NaN, which is no entry.
        tokens: (B,) int64, each example's j; -1 if it is in another stage.
        gamma: Γ in percent, 0 to 100; the number of entries is rounded.
        zero: set v_j to zero; False if it is dropped elsewhere. Its entries are excluded from Γ either way.

    Returns:
        (B, m, parts, width), a prompt for each example.
    """
    length, parts, width = vectors.shape
    chosen = torch.arange(length, device=vectors.device) == tokens[:, None]
    others = (~chosen)[:, None, :, None].expand(-1, parts, -1, width).flatten(2)
    magnitude = vectors.detach().abs().transpose(0, 1).flatten(1).expand(len(tokens), -1, -1)
    others = others & ~magnitude.isnan()
    ranks = torch.where(others, magnitude, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    count = (others.sum(-1, keepdim=True) * gamma / 100).round()
    mask = (ranks >= count).unflatten(2, (length, width)).transpose(1, 2)
    if zero:
        mask = mask & ~chosen[:, :, None, None]
    return vectors * mask

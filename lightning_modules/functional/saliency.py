"""Attention times its gradient, without an n × n graph (DPC eq. 1, DHAM eq. 1).

    S = |Σ_h A_h ⊙ ∂𝓛/∂A_h|,   ∂𝓛/∂A_h = (∂𝓛/∂O_h) V_hᵀ   for O_h = A_h V_h

A layer's saliency thus follows from its queries, keys, values and the gradient at its attention output, all
of which any fused kernel leaves behind. A is made anew in blocks of rows, only wanted columns are multiplied,
and sums over spans are taken block by block: S is not kept whole unless asked for.

``S[i, j]`` is the flow from token j to token i. Rows are content tokens; columns are the layer's virtual
tokens, then the content.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 128


@dataclass(frozen=True)
class AttentionTerms:
    """What a layer's saliency follows from, for B examples of n content tokens and p virtual ones.

    Attributes:
        query: (B, H, n, head dim), positions applied.
        key: (B, K, p + n, head dim), the virtual tokens' first; K divides H (grouped queries).
        value: as ``key``.
        gradient: (B, H, n, head dim), of each example's own loss at the attention output.
        scaling: factor of the products of queries and keys.
        prefix: p; every row sees all of these.
        content: (B, n) bool, False on padding; None: no padding.
        window: how many content tokens up to itself a row sees; None: all.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    gradient: Tensor
    scaling: float
    prefix: int = 0
    content: Tensor | None = None
    window: int | None = None

    def is_content(self) -> Tensor:
        """(B, n) bool."""
        if self.content is not None:
            return self.content
        batch, _, length, _ = self.query.shape
        return torch.ones(batch, length, dtype=torch.bool, device=self.query.device)


@dataclass(frozen=True)
class Flow:
    """Sums of a layer's S over spans, for B examples.

    Attributes:
        to_row: (B, n), Σ over virtual tokens j of S[i, j]: what the prompt sends to token i.
        from_first: (B, n), S[i, 0]: the first virtual token's share of it, where attention sinks form.
        from_token: (B, p), Σ over the counted rows i of S[i, j]: what virtual token j sends (DPC eq. 6-7).
        mean: (B,), mean of S over all pairs that see each other (DHAM Fig. 1); None where not asked for.
    """

    to_row: Tensor
    from_first: Tensor
    from_token: Tensor
    mean: Tensor | None


def saliency(terms: AttentionTerms, columns: slice = slice(None), block: int = BLOCK) -> Tensor:
    """S of the wanted columns, (B, n, columns), float32 or better; 0 where a row or column is not seen."""
    return torch.cat([part for _, part, _ in _blocks(terms, columns, block)], dim=1)


def flow(terms: AttentionTerms, counted: Tensor, everything: bool = False, block: int = BLOCK) -> Flow:
    """Sums over S, without keeping it.

    Args:
        counted: (B, n) bool, the rows of ``from_token``: question and rationale.
        everything: ``mean``, too, which needs all columns.
    """
    columns = slice(None) if everything else slice(0, terms.prefix)
    to_row, from_first, from_token, totals, pairs = [], [], [], [], []
    for rows, part, seen in _blocks(terms, columns, block):
        prompt = part[:, :, : terms.prefix]
        to_row.append(prompt.sum(2))
        from_first.append(prompt[:, :, :1].sum(2))
        from_token.append((prompt * counted[:, rows, None]).sum(1))
        totals.append(part.sum((1, 2)))
        pairs.append(seen.sum((1, 2)))
    mean = torch.stack(totals).sum(0) / torch.stack(pairs).sum(0)
    return Flow(
        to_row=torch.cat(to_row, dim=1),
        from_first=torch.cat(from_first, dim=1),
        from_token=torch.stack(from_token).sum(0),
        mean=mean if everything else None,
    )


def _blocks(terms: AttentionTerms, columns: slice, block: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of rows: which, their S (B, r, columns), and which pairs see each other (B, r, columns)."""
    batch, heads, length, width = terms.query.shape
    groups = heads // terms.key.shape[1]
    dtype = torch.promote_types(terms.query.dtype, torch.float32)
    key, value = terms.key.to(dtype), terms.value[:, :, columns].to(dtype)
    content = terms.is_content()
    for start in range(0, length, block):
        rows = slice(start, min(start + block, length))
        seen = visible(terms, content, rows)
        query, gradient = (
            part[:, :, rows].to(dtype).reshape(batch, heads // groups, groups, -1, width)
            for part in (terms.query, terms.gradient)
        )
        scores = (query * terms.scaling) @ key[:, :, None].mT
        scores = scores.masked_fill(~seen[:, None, None], torch.finfo(dtype).min)
        weights = scores.softmax(-1)[..., columns]
        seen = seen[..., columns] & content[:, rows, None]
        flow = (weights * (gradient @ value[:, :, None].mT)).sum((1, 2)).abs()
        yield rows, flow * seen, seen


def visible(terms: AttentionTerms, content: Tensor, rows: slice) -> Tensor:
    """(B, r, p + n) bool: which columns each of the rows sees."""
    length = content.shape[1]
    i = torch.arange(rows.start, rows.stop, device=content.device)[:, None]
    j = torch.arange(length, device=content.device)
    causal = j <= i
    if terms.window is not None:
        causal &= j > i - terms.window
    seen = causal & content[:, None]
    return torch.cat([seen.new_ones(*seen.shape[:2], terms.prefix), seen], dim=2)

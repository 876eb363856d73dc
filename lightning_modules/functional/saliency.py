"""Attention times its gradient, without an n × n graph (DPC eq. 1, DHAM eq. 1).

    S = |Σ_h A_h ⊙ ∂𝓛/∂A_h|,   ∂𝓛/∂A_h = (∂𝓛/∂O_h) V_hᵀ   for O_h = A_h V_h

The saliency of a layer thus depends on its queries, keys, values and the gradient at its attention output,
all of which are available with any fused kernel. A is recomputed in blocks of rows, only the required columns
are multiplied, and sums over spans are accumulated block by block, so S is never materialized unless
requested.

``S[i, j]`` is the flow from token j to token i. Rows are content tokens; columns are the layer's virtual
tokens, followed by the content.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from promptstage.lightning_modules.functional.softmax import attention_softmax

BLOCK = 128


@dataclass(frozen=True)
class AttentionTerms:
    """Tensors that determine a layer's saliency, for B examples of n content tokens and p virtual tokens.

    Attributes:
        query: (B, H, n - start, head dim), with positions applied.
        key: (B, K, p + n, head dim), virtual tokens first; K divides H (grouped queries).
        value: as ``key``, or only its first columns if no others are required.
        gradient: (B, H, n - start, head dim), of each example's own loss at the attention output.
        scaling: factor of the products of queries and keys.
        prefix: p; every row sees all p columns.
        content: (B, n) bool, False on padding; None: no padding.
        window: number of content tokens that a row sees, itself included; None: all.
        start: index of the first content token in ``query`` and ``gradient``.
        softcap: bound of the scores; None: unbounded.
        sink_logits: (H,), logit of each head's attention sink, which is no column; None: no sinks.
        chunk: number of positions in each chunk, outside of which a row sees no content; None: no chunks.
        first: position of the first content token.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    gradient: Tensor
    scaling: float
    prefix: int = 0
    content: Tensor | None = None
    window: int | None = None
    start: int = 0
    softcap: float | None = None
    sink_logits: Tensor | None = None
    chunk: int | None = None
    first: int = 0

    def is_content(self) -> Tensor:
        """Return a mask (B, n) bool, False on padding."""
        if self.content is not None:
            return self.content
        batch, _, length, _ = self.query.shape
        return torch.ones(batch, self.start + length, dtype=torch.bool, device=self.query.device)


@dataclass(frozen=True)
class Flow:
    """Sums of a layer's S over spans of rows, for B examples and T spans.

    Attributes:
        to_row: (B, n), Σ_j S[i, j] over virtual tokens j: flow from the prompt to token i.
        from_column: (B, T, p), Σ_i S[i, j] over the rows i of a span: flow from column j (DPC eq. 6-7).
        attention: (B, T, p), the same sums of attention weights, mean over heads.
        mean: (B,), mean of S over all visible pairs (DHAM Fig. 1); None unless requested.
        between: (B, T, U), sum of S over the visible pairs (row of a span × content column of a sender)
            (DHAM §3: question or earlier steps to later steps); None without senders.
        pairs: (B, T, U), number of these pairs.
    """

    to_row: Tensor
    from_column: Tensor
    attention: Tensor
    mean: Tensor | None
    between: Tensor | None = None
    pairs: Tensor | None = None


def saliency(
    terms: AttentionTerms,
    rows: slice = slice(None),
    columns: slice = slice(None),
    block: int = BLOCK,
) -> Tensor:
    """Compute S for some rows and columns, (B, rows, columns), float32 or wider; 0 for masked pairs."""
    width = len(range(*columns.indices(terms.key.shape[2])))
    parts = [pad(part.flow, (0, width - part.flow.shape[2])) for part in _blocks(terms, rows, columns, block)]
    return torch.cat(parts, dim=1)


def attention_weights(
    terms: AttentionTerms, rows: slice = slice(None), block: int = BLOCK
) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows with their attention weights, mean over heads.

    Yields:
        The rows of the block, and (B, r, p + rows.stop), float32 or wider; columns after the block's last row
        are masked. Rows of content sum to 1, less the weight of attention sinks; rows of padding are 0.
    """
    dtype = torch.promote_types(terms.query.dtype, torch.float32)
    content = terms.is_content()
    first, last, _ = rows.indices(content.shape[1])
    for start in range(max(first, terms.start), last, block):
        part = slice(start, min(start + block, last))
        with torch.autocast(terms.query.device.type, enabled=False):
            seen = visible(terms, content, part)
            weights = _weights(terms, part, seen, dtype)
        yield part, weights.mean((1, 2)) * (seen & content[:, part, None])


def flow(
    terms: AttentionTerms,
    spans: Tensor,
    lead: int = 0,
    everything: bool = False,
    block: int = BLOCK,
    senders: Tensor | None = None,
) -> Flow:
    """Sum S over spans without materializing it.

    Args:
        spans: (B, T, n) bool, the rows of each span, such as question and rationale.
        lead: number of leading real tokens in the prefix, which do not count for ``to_row``.
        everything: also compute ``mean``, which requires all columns.
        senders: (B, U, n) bool, content columns of each sender, for ``between``, which requires all columns.
    """
    columns = slice(None) if everything or senders is not None else slice(0, terms.prefix)
    to_row, from_column, attention, totals, pairs = [], [], [], [], []
    between, pairs_between = [], []
    for part in _blocks(terms, slice(None), columns, block):
        prompt = part.flow[:, :, : terms.prefix]
        within = spans[:, :, part.rows].to(prompt.dtype)
        to_row.append(prompt[:, :, lead:].sum(2))
        from_column.append(within @ prompt)
        attention.append(within @ part.attention[:, :, : terms.prefix])
        totals.append(part.flow.sum((1, 2)))
        pairs.append(part.seen.sum((1, 2)))
        if senders is not None:
            sending = senders[:, :, : part.rows.stop].to(prompt.dtype).mT
            between.append(within @ (part.flow[:, :, terms.prefix :] @ sending))
            seen = part.seen[:, :, terms.prefix :].to(prompt.dtype)
            pairs_between.append(within @ (seen @ sending))
    mean = torch.stack(totals).sum(0) / torch.stack(pairs).sum(0)
    return Flow(
        to_row=torch.cat(to_row, dim=1),
        from_column=torch.stack(from_column).sum(0),
        attention=torch.stack(attention).sum(0),
        mean=mean if everything else None,
        between=torch.stack(between).sum(0) if between else None,
        pairs=torch.stack(pairs_between).sum(0) if pairs_between else None,
    )


class _Block(NamedTuple):
    """Block of rows: S, mean attention, and the mask of visible pairs, (B, r, columns) each."""

    rows: slice
    flow: Tensor
    attention: Tensor
    seen: Tensor


def _blocks(terms: AttentionTerms, rows: slice, columns: slice, size: int) -> Iterator[_Block]:
    """Yield blocks of rows, with those of the columns that their last row can see."""
    content = terms.is_content()
    first, last, _ = rows.indices(content.shape[1])
    first = max(first, terms.start)
    columns = slice(*columns.indices(terms.key.shape[2])[:2])
    for start in range(first, last, size):
        part = slice(start, min(start + size, last))
        with torch.autocast(terms.query.device.type, enabled=False):
            block = _block(terms, part, columns, content)
        yield block


def _block(terms: AttentionTerms, rows: slice, columns: slice, content: Tensor) -> _Block:
    """Compute a block in float32 or wider, whatever the dtype of the backbone."""
    dtype = torch.promote_types(terms.query.dtype, torch.float32)
    reach = terms.prefix + rows.stop  # later columns are masked
    value = terms.value[:, :, :reach][:, :, columns].to(dtype)
    gradient = _rows_of(terms.gradient, terms, rows, dtype)
    seen = visible(terms, content, rows)
    weights = _weights(terms, rows, seen, dtype)[..., columns]
    seen = seen[..., columns] & content[:, rows, None]
    flow = (weights * (gradient @ value[:, :, None].mT)).sum((1, 2)).abs()
    return _Block(rows, flow * seen, weights.mean((1, 2)) * seen, seen)


def _rows_of(part: Tensor, terms: AttentionTerms, rows: slice, dtype: torch.dtype) -> Tensor:
    """Select rows of queries or gradients (B, K, H ÷ K, r, head dim), heads grouped by key-value head."""
    groups = terms.query.shape[1] // terms.key.shape[1]
    chosen = part[:, :, rows.start - terms.start : rows.stop - terms.start]
    return chosen.to(dtype).unflatten(1, (-1, groups))


def _weights(terms: AttentionTerms, rows: slice, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute attention weights of a block of rows, (B, K, H ÷ K, r, p + rows.stop)."""
    key = terms.key[:, :, : terms.prefix + rows.stop].to(dtype)
    scores = (_rows_of(terms.query, terms, rows, dtype) * terms.scaling) @ key[:, :, None].mT
    sinks = terms.sink_logits
    if sinks is not None:
        sinks = sinks.view(*scores.shape[1:3], 1, 1)
    return attention_softmax(scores, seen[:, None, None], terms.softcap, sinks)


def visible(terms: AttentionTerms, content: Tensor, rows: slice) -> Tensor:
    """Return the attention mask of some rows, (B, r, p + rows.stop) bool, True for visible columns."""
    i = torch.arange(rows.start, rows.stop, device=content.device)[:, None]
    j = torch.arange(rows.stop, device=content.device)
    causal = j <= i
    if terms.window is not None:
        causal &= j > i - terms.window
    if terms.chunk is not None:
        chunks = (terms.first + content.cumsum(1) - 1) // terms.chunk
        causal = causal & (chunks[:, rows, None] == chunks[:, None, : rows.stop])
    seen = causal & content[:, None, : rows.stop]
    return torch.cat([seen.new_ones(*seen.shape[:2], terms.prefix), seen], dim=2)

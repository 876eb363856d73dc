"""Attention of a packed batch on the CPU, without padding and without most of the masked scores.

PyTorch's attention kernel for the CPU skips masked scores in units of 512 columns: in shorter texts, a causal
call computes all of them. Here the sequences are sorted by length and their rows are cut into blocks. Rows s
to e - 1 of all sequences longer than s attend, in one call, to the prefix and to columns 0 to e - 1. A
staircase of scores is computed instead of the rectangle of the longest sequence, and each row's softmax in
one call, so that nothing has to be merged.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default

# Fewer rows compute fewer masked scores, but add up the gradients of keys and values more often.
ROWS = 48


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    blocks: "CausalBlocks",
    scaling: float,
) -> Tensor:
    """Compute causal attention of the sequences of a packed row to themselves and to a prefix.

    Differentiable once, as PyTorch's kernel is. Gradients of keys and values are summed over blocks in
    float32 or better.

    Args:
        query: (1, H, N, head dim), on the CPU, any float dtype.
        key, value: (1, K, N, head dim); K divides H.
        prefix: keys and values (b, K, m, head dim), one row for all or for each sequence, that all tokens
            attend to; None: no prefix.
        scaling: factor of the products of queries and keys.

    Returns:
        (1, N, H, head dim).
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    ahead = (None, None) if prefix is None else tuple(part.to(key.dtype) for part in prefix)
    return _PackedAttention.apply(query, key, value, *ahead, blocks, scaling)


class Block(NamedTuple):
    """Rows ``start`` to ``end`` - 1 of the ``sequences`` longest sequences."""

    start: int
    end: int
    sequences: int


@dataclass(frozen=True)
class CausalBlocks:
    """Blocks of rows of a packed batch, its sequences sorted by length, longest first.

    Attributes:
        batch: number of sequences that are not empty (B).
        width: length of the longest sequence (n).
        order: (B,) indices of the sequences in the batch, longest first.
        places: (N,) for each token of the packed row ``sequence * n + column``, in the sorted order.
        outputs: (N,) its place among the rows of all blocks, one block after another.
        blocks: the blocks, from the first rows on.
    """

    batch: int
    width: int
    order: Tensor
    places: Tensor
    outputs: Tensor
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, sequences: Tensor, columns: Tensor, batch: int, rows: int = ROWS) -> "CausalBlocks":
        """Cut a batch into blocks of at most ``rows`` rows.

        Args:
            sequences: (N,) int64, the sequence of each token.
            columns: (N,) int64, its column; a sequence's columns are 0, 1, … without gaps.
            batch: number of sequences, some of which may be empty.
        """
        lengths = torch.bincount(sequences, minlength=batch)
        sizes, order = lengths.sort(descending=True, stable=True)
        sorted_sizes = [size for size in sizes.tolist() if size]
        width = max(sorted_sizes, default=0)
        ranks = torch.empty_like(order).index_put_((order,), torch.arange(batch, device=order.device))
        ranks = ranks[sequences]
        blocks, offsets, offset = [], [], 0
        for start in range(0, width, rows):
            block = Block(start, min(start + rows, width), sum(size > start for size in sorted_sizes))
            blocks.append(block)
            offsets.append(offset)
            offset += block.sequences * (block.end - start)
        starts = torch.tensor(offsets, device=order.device)[columns // rows]
        heights = torch.tensor([block.end - block.start for block in blocks], device=order.device)
        outputs = starts + ranks * heights[columns // rows] + columns % rows
        count = len(sorted_sizes)
        return cls(count, width, order[:count], ranks * width + columns, outputs, tuple(blocks))

    def masks(self, prefix: int, like: Tensor) -> list[Tensor]:
        """Return each block's additive mask (1, 1, rows, ``prefix`` + end), slices of one small matrix."""
        rows = self.blocks[0].end
        left = prefix + self.blocks[-1].start
        hidden = torch.ones(rows, left + rows, dtype=torch.bool, device=like.device).triu(left + 1)
        bias = torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -torch.inf)[None, None]
        return [
            bias[:, :, : end - start, left - prefix - start : left + end - start]
            for start, end, _ in self.blocks
        ]

    def padded(self, states: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Convert (1, heads, N, width) to sorted (B, heads, p + n, width), zero on padding.

        Args:
            prefix: (b, heads, p, width), put in front of all or of each sequence; None: p is 0.
        """
        heads, _, size = states.shape[1:]
        length = 0 if prefix is None else prefix.shape[2]
        padded = states.new_zeros(self.batch, length + self.width, heads, size)
        if prefix is not None:
            padded[:, :length] = self.sorted(prefix).transpose(1, 2)
        places = self.places if not length else self.places + self.places // self.width * length + length
        padded.view(-1, heads, size)[places] = states[0].transpose(0, 1)
        return padded.transpose(1, 2)

    def packed(self, states: Tensor) -> Tensor:
        """Convert (B, heads, n, width), sorted, to (1, heads, N, width)."""
        rows = states.transpose(1, 2)
        return rows.reshape(-1, *rows.shape[2:])[self.places].transpose(0, 1)[None]

    def sorted(self, prefix: Tensor) -> Tensor:
        """Sort the rows of a prefix as the sequences, unless it is one row, shared by all."""
        return prefix if len(prefix) == 1 else prefix[self.order]

    def prefix(self, gradient: Tensor, prefix: Tensor) -> Tensor:
        """Convert a gradient (B, heads, p, width), sorted, to that of ``prefix``: reverse :meth:`sorted`."""
        if len(prefix) == 1:
            return gradient.sum(0, keepdim=True).to(prefix.dtype)
        return torch.zeros_like(prefix).index_put((self.order,), gradient.to(prefix.dtype))

    def split(self, states: Tensor) -> list[Tensor]:
        """Return each block's part (sequences, heads, rows, width) of sorted states."""
        return [states[:sequences, :, start:end] for start, end, sequences in self.blocks]

    def seen(self, states: Tensor, prefix: int) -> list[Tensor]:
        """Return the columns (sequences, heads, prefix + end, width) that each block attends to."""
        return [states[:sequences, :, : prefix + end] for _, end, sequences in self.blocks]


class _PackedAttention(torch.autograd.Function):
    """Attention block by block; padded copies of the inputs are built again for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        blocks: CausalBlocks,
        scaling: float,
    ) -> Tensor:
        results = [
            _forward(*part, 0.0, False, attn_mask=mask, scale=scaling)
            for *part, mask in _parts(blocks, query, key, value, prefix_key, prefix_value)
        ]
        output = torch.cat([rows.transpose(1, 2).flatten(0, 1) for rows, _ in results])[blocks.outputs][None]
        ctx.blocks, ctx.scaling = blocks, scaling
        sums = (total for _, total in results)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, output, *sums)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prefix_key, prefix_value, output, *sums = ctx.saved_tensors
        blocks: CausalBlocks = ctx.blocks
        length = 0 if prefix_key is None else prefix_key.shape[2]
        parts = _parts(blocks, query, key, value, prefix_key, prefix_value)
        outputs, gradients_of_outputs = (
            blocks.split(blocks.padded(part.transpose(1, 2))) for part in (output, gradients[0])
        )
        of_query = []
        exact = torch.promote_types(key.dtype, torch.float32)
        shape = (blocks.batch, length + blocks.width, key.shape[1], key.shape[3])
        of_key, of_value = (key.new_zeros(shape, dtype=exact).transpose(1, 2) for _ in range(2))
        targets = zip(blocks.seen(of_key, length), blocks.seen(of_value, length), strict=True)
        for (*part, mask), rows, gradient, total, (key_part, value_part) in zip(
            parts, outputs, gradients_of_outputs, sums, targets, strict=True
        ):
            own, by_key, by_value = _backward(
                gradient, *part, rows, total, 0.0, False, attn_mask=mask, scale=ctx.scaling
            )
            of_query.append(own.transpose(1, 2).flatten(0, 1))
            key_part += by_key
            value_part += by_value
        return (
            torch.cat(of_query)[blocks.outputs].transpose(0, 1)[None].to(query.dtype),
            blocks.packed(of_key[:, :, length:]).to(key.dtype),
            blocks.packed(of_value[:, :, length:]).to(value.dtype),
            None if prefix_key is None else blocks.prefix(of_key[:, :, :length], prefix_key),
            None if prefix_value is None else blocks.prefix(of_value[:, :, :length], prefix_value),
            None,
            None,
        )


def _parts(
    blocks: CausalBlocks,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor | None,
    prefix_value: Tensor | None,
) -> list[tuple[Tensor, ...]]:
    """Return the queries, keys, values and mask of each block."""
    length = 0 if prefix_key is None else prefix_key.shape[2]
    queries = blocks.split(blocks.padded(query))
    keys, values = (
        blocks.seen(blocks.padded(part, ahead), length)
        for part, ahead in ((key, prefix_key), (value, prefix_value))
    )
    return list(zip(queries, keys, values, blocks.masks(length, query), strict=True))

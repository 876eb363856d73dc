"""CPU time of the attention of a packed batch in blocks, compared with attention on the padded batch.

    python -m benchmarks.packed_attention

Forward and backward of one layer of SmolLM2's shape (9 query heads, 3 key-value heads of 64) in float32, on
one thread, for a prefix that is shared by the batch.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.common import alternate, ratios
from promptstage.lightning_modules.backbone.attention_context import AttentionContext, Packing
from promptstage.lightning_modules.backbone.packed_attention import packed_attention
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix

HEADS, KEY_VALUE_HEADS, WIDTH = 9, 3, 64
GSM8K = (87, 84, 134, 156, 84, 190, 133, 208)
"""Tokens of the first 8 training examples."""
CASES = (
    (GSM8K, 0),
    (GSM8K, 10),
    (GSM8K, 100),
    (GSM8K, 400),
    ((128,) * 8, 100),
    ((500,) * 4, 100),
    ((2000,), 100),
)


def actions(lengths: Sequence[int], virtual: int) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Return forward and backward of both implementations on the same random inputs."""
    batch, width, total = len(lengths), max(lengths), sum(lengths)
    index = torch.cat([torch.arange(length) + row * width for row, length in enumerate(lengths)])
    packing = Packing(batch, width, index)
    shapes = [(total, HEADS), (total, KEY_VALUE_HEADS), (total, KEY_VALUE_HEADS)]
    content = [torch.randn(1, *shape, WIDTH).transpose(1, 2).requires_grad_() for shape in shapes]
    prefix = [torch.randn(1, KEY_VALUE_HEADS, virtual, WIDTH, requires_grad=True) for _ in range(2)]
    inputs = [*content, *prefix] if virtual else content
    gradient = torch.randn(1, total, HEADS, WIDTH)
    state = LayerState(keys=prefix[0], values=prefix[1]) if virtual else None
    queries, keys, values = content
    context = AttentionContext(prefix=Prefix((state,), virtual, (virtual,)), packing=packing)

    def in_blocks() -> tuple[Tensor, ...]:
        output = packed_attention(queries, keys, values, context.keys_values(0), packing.blocks, WIDTH**-0.5)
        return torch.autograd.grad(output, inputs, gradient)

    def padded() -> tuple[Tensor, ...]:
        query, key, value = (packing.unpack(part) for part in content)
        key, value = context.extend(0, key, value)
        columns = virtual + width
        mask = context.additive_mask(0, None, None, query, columns, sinks=False) if virtual else None
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return torch.autograd.grad(packing.pack(output.transpose(1, 2)), inputs, gradient)

    return {"padded": padded, "in blocks": in_blocks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| tokens of the examples | virtual tokens | padded | in blocks | padded ÷ in blocks |")
    print("| --- | --- | --- | --- | --- |")
    for lengths, virtual in CASES:
        seconds = alternate(actions(lengths, virtual), args.repeats, time.process_time)
        padded, blocks = seconds["padded"], seconds["in blocks"]
        print(
            f"| {', '.join(map(str, lengths))} | {virtual} | {1e3 * statistics.median(padded):.0f} ms "
            f"| {1e3 * statistics.median(blocks):.0f} ms | {ratios(padded, blocks)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

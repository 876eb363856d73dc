"""CPU seconds of a decoding step on SmolLM2, compared with its linear layers alone.

python -m benchmarks.decoding_step
"""

import argparse
import time
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.common import alternate, ratios, smollm2
from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.decoding_step import next_logits
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix


def actions(backbone: Backbone, stock: Any, prefix: Prefix, rows: int, content: int) -> dict[str, Any]:
    """Return a decoding step of ours, one with transformers' DynamicCache, and the linear layers alone."""
    heads, whole = stock.config.num_key_value_heads, prefix.length(0) + content
    mask = torch.ones(rows, content + 1, dtype=torch.int64)
    mask[: rows // 2, :20] = 0  # padding
    wide = nn.functional.pad(mask, (prefix.length(0), 0), value=1)
    cache = PrefixCache(prefix, backbone.num_layers, content + 64, backbone.attention_layers)
    dynamic = DynamicCache()
    for layer, buffer in cache.buffers.items():
        states = torch.randn(rows, heads, whole, stock.config.head_dim)
        buffer.update(states[:, :, :content], states[:, :, :content])
        dynamic.update(states, states, layer)
    token = torch.zeros(rows, 1, dtype=torch.int64)
    positions = torch.full((rows, 1), whole)
    linear = [module for module in backbone.model.modules() if isinstance(module, nn.Linear)]
    inputs = [torch.randn(rows, module.in_features) for module in linear]

    def ours() -> None:
        for buffer in cache.buffers.values():
            buffer.length = content
        context = AttentionContext(prefix=prefix, prefix_in_cache=True)
        next_logits(backbone, token, mask if rows > 1 else None, positions, cache, context)

    def theirs() -> None:
        stock(token, attention_mask=wide, position_ids=positions, past_key_values=dynamic)
        dynamic.crop(-1)

    def products() -> None:
        for module, states in zip(linear, inputs, strict=True):
            module(states)

    return {"ours": ours, "linear": products, "dynamic": theirs}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--content", type=int, default=200, help="tokens of content in the cache")
    parser.add_argument("--virtual-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    torch.set_num_threads(1)
    config = smollm2()
    backbone = Backbone(config)
    stock = AutoModelForCausalLM.from_pretrained(config.name, dtype=torch.float32).eval()
    prefix = stage_prefix(backbone, [0], [backbone.embedding[: args.virtual_tokens].clone()])
    print("| rows | step | linear layers | step ÷ linear layers | step with DynamicCache |")
    print("| --- | --- | --- | --- | --- |")
    for rows in args.rows:
        steps = actions(backbone, stock, prefix, rows, args.content)
        seconds = alternate(steps, args.repeats, time.process_time)
        shown = {name: f"{min(times) * 1000:.0f} ms" for name, times in seconds.items()}
        ratio = ratios(seconds["ours"], seconds["linear"])
        print(f"| {rows} | {shown['ours']} | {shown['linear']} | {ratio} | {shown['dynamic']} |")


if __name__ == "__main__":
    main()

"""Speed of generation on the CPU in float32, bfloat16 and int8, and agreement of the answers, on SmolLM2.

Measures CPU time in one thread, so that other programs on the machine affect it little.

python -m benchmarks.precision
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import gsm8k, smollm2
from promptstage.datamodules.gsm8k import GSM8K
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix

SETTINGS: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
}
STEPS = {1: 8, 16: 4, 64: 2}
"""Steps of decoding that are timed, by batch size."""


def prefix_of(backbone: Backbone, virtual_tokens: int) -> Prefix:
    with torch.no_grad():
        return stage_prefix(backbone, [0], [backbone.embedding[:virtual_tokens].clone()])


def cpu_seconds(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin


def decoding_rates(backbone: Backbone, prefix: Prefix, ids: Tensor, rows: int) -> tuple[float, float]:
    """Measure content tokens per CPU-second, and new tokens per CPU-second of ``rows`` copies of a text."""
    mask, steps = torch.ones_like(ids), STEPS[rows]
    first, whole = (
        cpu_seconds(
            lambda limit=limit: generate(
                backbone, backbone.tokenizer, ids, mask, prefix, limit, num_samples=rows
            )
        )
        for limit in (1, 1 + steps)
    )
    return ids.shape[1] / first, rows * steps / (whole - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--virtual-tokens", type=int, default=100)
    parser.add_argument("--content-tokens", type=int, default=200)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()

    torch.set_num_threads(1)
    backbones = {name: Backbone(smollm2(), **options) for name, options in SETTINGS.items()}
    prefixes = {name: prefix_of(backbone, args.virtual_tokens) for name, backbone in backbones.items()}
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40_000, (1, args.content_tokens), generator=draws)
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for rows in STEPS:
        for _ in range(args.repeats):
            for name, backbone in backbones.items():
                measured = decoding_rates(backbone, prefixes[name], ids, rows)
                rates.setdefault((name, rows), []).append(measured)
    print(
        f"content tokens, and new tokens by batch size, per CPU-second: {args.virtual_tokens} virtual tokens,"
    )
    print(f"{args.content_tokens} tokens of content, medians of {args.repeats}")
    print(f"| weights | content | {' | '.join(f'batch {rows}' for rows in STEPS)} |")
    print("| --- | --- | --- | --- | --- |")
    for name in backbones:
        content = statistics.median(rate for rows in STEPS for rate, _ in rates[name, rows])
        news = (statistics.median(rate for _, rate in rates[name, rows]) for rows in STEPS)
        print(f"| {name} | {content:.0f} | {' | '.join(f'{rate:.1f}' for rate in news)} |", flush=True)

    data = GSM8K(source=gsm8k(), test_size=args.examples, eval_batch_size=args.examples)
    data.connect(backbones["float32"].tokenizer)
    data.setup("test")
    prompt = next(iter(data.test_dataloader())).prompt
    given = (prompt.input_ids, prompt.attention_mask)
    outputs = {
        name: generate(backbone, backbone.tokenizer, *given, prefixes[name], args.new_tokens)
        for name, backbone in backbones.items()
    }
    expected = outputs["float32"]
    for name, actual in outputs.items():
        same = sum(own == other for own, other in zip(actual, expected, strict=True))
        leading = sum(map(common_tokens, actual, expected)) / sum(map(len, expected))
        print(
            f"{name}: {same} of {args.examples} generations equal those in float32, {leading:.0%} of tokens"
        )


def common_tokens(own: list[int], other: list[int]) -> int:
    """Return the number of tokens before the first difference."""
    pairs = zip(own, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(own), len(other)))


if __name__ == "__main__":
    main()

"""Speed of generation on the CPU in float32, bfloat16 and int8, and agreement of the answers, on SmolLM2.

Measures CPU time in one thread, so that other programs on the machine affect it little.

python -m benchmarks.precision
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.common import gsm8k, gsm8k_batch, smollm2
from promptstage.datamodules.gsm8k import GSM8K
from promptstage.grading import find_answer
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix

SETTINGS: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
}
STEPS = {1: 16, 16: 8, 64: 4}
"""Steps of decoding that are timed, by batch size."""


def prefix_of(backbone: Backbone, tokens: Tensor) -> Prefix:
    """Compute the prefix of a prompt that starts from the embeddings of tokens (m,)."""
    with torch.no_grad():
        return stage_prefix(backbone, [0], [backbone.embedding[tokens]])


def step_seconds(backbone: Backbone, prefix: Prefix, ids: Tensor, rows: int) -> list[float]:
    """Measure the CPU time of the pass over a text (1, n), and of each step of decoding ``rows`` copies."""
    times = [time.process_time()]

    def choose(logits: Tensor, alive: Sequence[int]) -> Tensor:
        times.append(time.process_time())
        return ids.new_full((len(alive),), int(ids[0, 0]))  # no end token

    mask = torch.ones_like(ids)
    limit = 1 + STEPS[rows]
    generate(backbone, backbone.tokenizer, ids, mask, prefix, limit, choose=choose, num_samples=rows)
    return [end - begin for begin, end in pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--virtual-tokens", type=int, default=100)
    parser.add_argument("--content-tokens", type=int, default=200)
    parser.add_argument("--examples", type=int, default=32, help="questions to compare; 0: none")
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()

    torch.set_num_threads(1)
    backbones = {name: Backbone(smollm2(), **options) for name, options in SETTINGS.items()}
    solved = gsm8k_batch(smollm2(), 4)
    prompt = solved.input_ids[solved.attention_mask.bool()][: args.virtual_tokens]
    prefixes = {name: prefix_of(backbone, prompt) for name, backbone in backbones.items()}
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40_000, (1, args.content_tokens), generator=draws)
    seconds: dict[str, dict[int, list[float]]] = {name: {} for name in backbones}
    for rows in STEPS:
        for _ in range(args.repeats):
            for name, backbone in backbones.items():
                whole, *steps = step_seconds(backbone, prefixes[name], ids, rows)
                seconds[name].setdefault(0, []).append(whole)
                seconds[name].setdefault(rows, []).extend(steps)
    print(f"tokens per CPU-second behind {args.virtual_tokens} virtual tokens: of a text of")
    print(
        f"{args.content_tokens} tokens, and new ones after it by batch size; medians of {args.repeats} runs"
    )
    print(f"| weights | text | {' | '.join(f'batch {rows}' for rows in STEPS)} |")
    print("| --- | --- | --- | --- | --- |")
    for name, measured in seconds.items():
        tokens = {0: args.content_tokens} | {rows: rows for rows in STEPS}
        rates = (count / statistics.median(measured[key]) for key, count in tokens.items())
        print(f"| {name} | {' | '.join(f'{rate:.0f}' for rate in rates)} |", flush=True)

    if not args.examples:
        return
    data = GSM8K(source=gsm8k(), test_size=args.examples, eval_batch_size=args.examples)
    data.connect(backbones["float32"].tokenizer)
    data.setup("test")
    questions = next(iter(data.test_dataloader())).prompt
    given = (questions.input_ids, questions.attention_mask)
    outputs = {
        name: generate(backbone, backbone.tokenizer, *given, prefixes[name], args.new_tokens)
        for name, backbone in backbones.items()
    }
    expected = outputs["float32"]
    for name, actual in outputs.items():
        same = sum(own == other for own, other in zip(actual, expected, strict=True))
        leading = sum(map(common_tokens, actual, expected)) / sum(map(len, expected))
        answers = sum(
            find_answer("number", *backbones[name].tokenizer.batch_decode([own])).prediction
            == find_answer("number", *backbones[name].tokenizer.batch_decode([other])).prediction
            for own, other in zip(actual, expected, strict=True)
        )
        print(
            f"{name}: of {args.examples} generations, {same} equal those in float32, and {answers} have the "
            f"same answer; {leading:.0%} of {sum(map(len, expected))} tokens precede the first difference"
        )


def common_tokens(own: list[int], other: list[int]) -> int:
    """Return the number of tokens before the first difference."""
    pairs = zip(own, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(own), len(other)))


if __name__ == "__main__":
    main()

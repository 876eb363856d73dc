"""Capacity of one virtual token of a frozen model: continuations that it reaches, and texts that it stores.

    python -m scripts.prefix_capacity --backbone embedded

"When do prompting and prefix-tuning work? A theory of capabilities and limitations", Petrov, Torr and Bibi,
ICLR 2024, arXiv:2310.19698, §3: there are transformers in which one virtual token selects any of V^N
continuations of N tokens, where one of the V real tokens selects V at most. The script measures a model:

1. distinct greedy continuations of N tokens after each real token, and after as many random virtual tokens
   (Gaussian, at the scale of the embedding matrix, or at larger scales);
2. the longest sequence of random tokens that one trained virtual token makes the model generate greedily.

The virtual token is followed by one real token, the end token, which predicts the first of the continuation.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix

ROWS = 256  # prompts in a forward pass
SCALES = (1.0, 4.0, 16.0)


@torch.no_grad()
def continuations(backbone: Backbone, prompts: Tensor, first: int, length: int) -> Tensor:
    """Generate greedily after one virtual token each.

    Args:
        prompts: (b, d).
        first: the real token after the virtual one.
        length: number of tokens (N).

    Returns:
        (b, N) int64.
    """
    parts = []
    for rows in prompts.split(ROWS):
        prefix = stage_prefix(backbone, [0], [rows[:, None].to(backbone.dtype)])
        ids = torch.full((len(rows), 1), first, device=rows.device)
        for _ in range(length):
            logits = backbone(ids, prefix)[:, -1]
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        parts.append(ids[:, 1:])
    return torch.cat(parts)


def count_distinct(rows: Tensor) -> int:
    """Count distinct rows.

    >>> count_distinct(torch.tensor([[1, 2], [1, 2], [2, 1]]))
    2
    """
    return len(torch.unique(rows, dim=0))


def stores(
    backbone: Backbone, target: Tensor, first: int, steps: int, lr: float, generator: torch.Generator
) -> bool:
    """Train one virtual token to make the model generate ``target`` (N,); return whether it does.

    Training stops once every token of the target is the most likely one.
    """
    width = backbone.hidden_size
    start = torch.randn(1, width, generator=generator) * float(backbone.embedding.std())
    prompt = start.to(backbone.embedding.device).requires_grad_()
    optimizer = torch.optim.AdamW([prompt], lr=lr, weight_decay=0.0)
    ids = torch.cat([target.new_tensor([first]), target])[None]
    for _ in range(steps):
        logits = backbone(ids[:, :-1], stage_prefix(backbone, [0], [prompt.to(backbone.dtype)]))[0]
        if torch.equal(logits.argmax(-1), target):
            break
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), target).backward()
        optimizer.step()
    return torch.equal(continuations(backbone, prompt.detach(), first, len(target))[0], target)


def longest_stored(
    backbone: Backbone, lengths: Sequence[int], draws: int, first: int, steps: int, lr: float
) -> dict[int, int]:
    """Count the random sequences of each length that are stored, of ``draws``; stops at the first 0."""
    generator = torch.Generator().manual_seed(0)
    counts: dict[int, int] = {}
    for length in lengths:
        targets = torch.randint(backbone.vocab_size, (draws, length), generator=generator)
        targets = targets.to(backbone.embedding.device)
        counts[length] = sum(stores(backbone, row, first, steps, lr, generator) for row in targets)
        print(f"| {length} tokens | {counts[length]} of {draws} |", flush=True)
        if not counts[length]:
            break
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="embedded", help="name or path")
    parser.add_argument("--tokens", type=int, help="number of real and of random tokens (default: all)")
    parser.add_argument("--length", type=int, default=8, help="number of tokens of a continuation")
    parser.add_argument("--draws", type=int, default=5, help="number of random sequences of each length")
    parser.add_argument("--steps", type=int, default=1000, help="most training steps of a virtual token")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate of AdamW")
    options = parser.parse_args()
    torch.manual_seed(0)
    backbone = Backbone(options.backbone)
    first = int(backbone.tokenizer.eos_token_id or 0)
    real = backbone.embedding.detach()[: options.tokens].float()
    print(f"{options.backbone}: greedy continuations of {options.length} tokens\n")
    print("| prompt | number of prompts | distinct continuations |\n| --- | --- | --- |")
    distinct = count_distinct(continuations(backbone, real, first, options.length))
    print(f"| one real token | {len(real)} | {distinct} |", flush=True)
    for scale in SCALES:
        drawn = torch.randn(real.shape) * backbone.embedding.std().cpu() * scale
        rows = continuations(backbone, drawn.to(real.device), first, options.length)
        name = f"one random virtual token, scale {scale:g}"
        print(f"| {name} | {len(real)} | {count_distinct(rows)} |", flush=True)
    print("\n| random sequence | stored by one trained virtual token |\n| --- | --- |")
    lengths = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
    longest_stored(backbone, lengths, options.draws, first, options.steps, options.lr)


if __name__ == "__main__":
    main()

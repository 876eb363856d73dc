"""Cost of saliency on SmolLM2, compared with eager attention that materializes all weights and gradients.

    python -m benchmarks.saliency

One row of GSM8K text, 100 virtual tokens, all layers, the prompt's columns; then the last layer alone,
compared with a forward pass.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from benchmarks.common import ROOT, alternate, peak_memory, ratios, smollm2
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.functional.saliency import saliency


def text_ids(backbone: Backbone, length: int) -> Tensor:
    """Encode concatenated training questions and answers as (1, ``length``) ids."""
    path = Path(os.environ.get("PROMPTSTAGE_DATA", ROOT / "data")) / "gsm8k" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:100]]
    text = "\n".join(f"{row['question']}\n{row['answer']}" for row in rows)
    return torch.tensor([backbone.tokenizer(text)["input_ids"][:length]])


def materialized(model: Any, rows: Tensor, ids: Tensor, labels: Tensor) -> list[Tensor]:
    """Compute each layer's saliency of the prompt's columns, (n, m), from all weights and gradients."""
    embeddings = torch.cat([rows[None], model.get_input_embeddings()(ids)], dim=1).requires_grad_()
    output = model(inputs_embeds=embeddings, output_attentions=True, use_cache=False)
    for weights in output.attentions:
        weights.retain_grad()
    logits = output.logits[:, len(rows) : -1]
    cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum").backward()
    m = len(rows)
    return [(w.detach() * w.grad).sum(1).abs()[0, m:, :m] for w in output.attentions]


def ours(backbone: Backbone, rows: Tensor, ids: Tensor, labels: Tensor, layers: range) -> list[Tensor]:
    """Compute the same from queries, keys, values and the gradient at the attention output."""
    with torch.no_grad():
        prefix = stage_prefix(backbone, [0], [rows])
    terms, _ = attention_terms(backbone, ids, labels, layers, prefix)
    return [saliency(terms.pop(layer), columns=slice(0, len(rows)))[0] for layer in layers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 768, 1024, 2048])
    parser.add_argument("--virtual-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    config = smollm2()
    backbone = Backbone(config)
    eager = AutoModelForCausalLM.from_pretrained(
        config.name, dtype=torch.float32, attn_implementation="eager"
    ).requires_grad_(False)
    rows = backbone.embedding[: args.virtual_tokens].clone()
    layers = range(backbone.num_layers)
    print(f"{args.virtual_tokens} virtual tokens, {len(layers)} layers, {torch.get_num_threads()} threads")
    print("| n | memory, ours ÷ materialized | time | ours | materialized | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n in args.lengths:
        ids = text_ids(backbone, n)
        labels = torch.where(torch.arange(n) >= n // 3, ids, -100)
        actions: dict[str, Callable[[], list[Tensor]]] = {
            "ours": partial(ours, backbone, rows, ids, labels, layers),
            "materialized": partial(materialized, eager, rows, ids, labels),
        }
        pairs = zip(actions["ours"](), actions["materialized"](), strict=True)
        difference = max(float((a - b).norm() / b.norm()) for a, b in pairs)
        memory = {name: peak_memory(action) for name, action in actions.items()}
        seconds = alternate({**actions}, args.repeats if n <= 1024 else 1)
        share = f"{memory['ours'] / memory['materialized']:.2f}"
        amounts = f"{memory['ours'] >> 20} of {memory['materialized'] >> 20} MiB"
        medians = " | ".join(f"{statistics.median(seconds[name]):.2f} s" for name in actions)
        speed = ratios(seconds["ours"], seconds["materialized"])
        print(f"| {n} | {share} ({amounts}) | {speed} | {medians} | {difference:.1e} |", flush=True)
    last_layer(backbone, rows, args.repeats)


def last_layer(backbone: Backbone, rows: Tensor, repeats: int, n: int = 768) -> None:
    """Compare the last layer alone with a forward pass with the same prefix and loss, without gradients."""
    ids = text_ids(backbone, n)
    labels = torch.where(torch.arange(n) >= n // 3, ids, -100)
    with torch.no_grad():
        prefix = stage_prefix(backbone, [0], [rows])
    last = backbone.num_layers - 1

    def alone() -> None:
        terms, _ = attention_terms(backbone, ids, labels, [last], prefix)
        saliency(terms[last], columns=slice(0, len(rows)))

    @torch.no_grad()
    def plain() -> None:
        backbone.loss(ids, labels, prefix)

    seconds = alternate({"alone": alone, "plain": plain}, max(repeats, 5))
    memory = {"alone": peak_memory(alone), "plain": peak_memory(plain)}
    print(
        f"last layer ÷ plain forward at n = {n}: {ratios(seconds['alone'], seconds['plain'])}; "
        f"{memory['alone'] >> 20} and {memory['plain'] >> 20} MiB"
    )


if __name__ == "__main__":
    main()

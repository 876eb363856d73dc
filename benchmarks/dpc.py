"""Cost of Dynamic Prompt Corruption (DPC) on SmolLM2, compared with plain evaluation and a naive version.

    python -m benchmarks.dpc

Answers are generated for a batch of GSM8K questions. Then the trigger is computed, from the trace of the
generation or by a full pass with materialized attention. Finally all examples are corrected (corrections are
pooled into full batches, so a fraction t of triggered examples costs t times as much). All times except the
first are ratios to plain evaluation. DPC: Fan et al., "Improving complex reasoning with Dynamic Prompt
Corruption", ICLR 2025, arXiv:2503.13208.
"""

import argparse
import os
import statistics
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from benchmarks.common import ROOT, alternate, ratios, smollm2
from promptstage.datamodules.encoding import Batch
from promptstage.datamodules.gsm8k import GSM8K
from promptstage.lightning_modules.backbone.generation import generate_rows
from promptstage.lightning_modules.backbone.loading import load_tokenizer
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Limits
from promptstage.lightning_modules.backbone.trace import GenerationTrace
from promptstage.lightning_modules.decoding.corruption import Corruption, corrupted_prefix, locate
from promptstage.lightning_modules.decoding.engines import generate_batch
from promptstage.lightning_modules.decoding.records import generated_tokens
from promptstage.lightning_modules.decoding.trigger import measure_trigger
from promptstage.lightning_modules.prompt_tuning import PromptTuning


def materialized(model: Any, prompt: torch.Tensor, batch: Batch, generated: list[list[int]]) -> torch.Tensor:
    """Compute the last layer's saliency of the prompt's columns, (B, n, m), from materialized attention."""
    tokens = generated_tokens(batch, generated)
    size, m = len(generated), len(prompt)
    content = model.get_input_embeddings()(tokens.input_ids)
    rows = torch.cat([prompt.expand(size, -1, -1), content], dim=1).detach().requires_grad_()
    mask = torch.cat([tokens.attention_mask.new_ones(size, m), tokens.attention_mask], dim=1)
    output = model(inputs_embeds=rows, attention_mask=mask, output_attentions=True, use_cache=False)
    for weights in output.attentions:
        weights.retain_grad()
    logits, labels = output.logits[:, m:-1], tokens.labels[:, 1:]
    cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    last = output.attentions[-1]
    return (last.detach() * last.grad).sum(1).abs()[:, m:, :m]


def disable_eos(backbone: Backbone) -> None:
    """Make every generation run to its full length: EOS becomes a token that is never generated."""
    backbone.model.generation_config.eos_token_id = None
    backbone.tokenizer.eos_token = backbone.tokenizer.convert_ids_to_tokens(backbone.vocab_size - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--virtual-tokens", type=int, nargs="+", default=[100, 20])
    args = parser.parse_args()

    config = smollm2()
    folder = os.path.join(os.environ.get("PROMPTSTAGE_DATA", str(ROOT / "data")), "gsm8k")
    data = GSM8K(source=folder, test_size=args.examples, eval_batch_size=args.examples)
    data.connect(load_tokenizer(config))
    data.max_new_tokens, data.stop = args.new_tokens, ()
    data.setup("test")
    (batch,) = data.first_examples("test", args.examples)
    eager = AutoModelForCausalLM.from_pretrained(
        config.name, dtype=torch.float32, attn_implementation="eager"
    ).requires_grad_(False)
    print(
        f"{args.examples} questions, at most {args.new_tokens} new tokens, {torch.get_num_threads()} threads"
    )
    print("| virtual tokens | plain | with trigger | trigger by full pass | correcting all | new tokens |")
    print("| --- | --- | --- | --- | --- | --- |")
    for length in args.virtual_tokens:
        module = PromptTuning(config, num_virtual_tokens=length)
        disable_eos(module.load_backbone())
        module.configure_prompts(torch.Generator().manual_seed(0))
        print(f"| {length} | {row(module, eager, batch, args.repeats)} |", flush=True)


def row(module: PromptTuning, eager: Any, batch: Batch, repeats: int) -> str:
    """Measure one prompt and return its row of the table."""
    backbone, corruption = module.backbone, Corruption()
    with torch.no_grad():
        prefix = module.prefix()
    assert isinstance(prefix, Prefix)
    layers = corruption.layers(prefix)
    generated = generate_batch(backbone, batch, prefix)

    def plain() -> None:
        generate_batch(backbone, batch, prefix)

    def triggered() -> None:
        trace, limits, prompt = (
            GenerationTrace(backbone),
            Limits(batch.max_new_tokens, batch.stop),
            batch.prompt,
        )
        tokens = prompt.input_ids, prompt.attention_mask
        rows = generate_rows(backbone, backbone.tokenizer, *tokens, prefix, limits, trace=trace)
        with torch.no_grad():
            measure_trigger(trace, rows, prefix, corruption.beta)

    def straightforward() -> None:
        outputs = generate_batch(backbone, batch, prefix)
        materialized(eager, module.prompt.detach(), batch, outputs)

    def correct() -> None:
        located = locate(backbone, generated_tokens(batch, generated), prefix, layers, None)
        generate_batch(backbone, batch, corrupted_prefix(module, located.token, corruption))

    actions = {"plain": plain, "triggered": triggered, "full": straightforward, "correct": correct}
    seconds = alternate({**actions}, repeats)
    shown = (ratios(seconds[name], seconds["plain"]) for name in ("triggered", "full", "correct"))
    tokens = sum(map(len, generated))
    return f"{statistics.median(seconds['plain']):.1f} s | {' | '.join(shown)} | {tokens}"


if __name__ == "__main__":
    main()

"""Speed and memory of a training step on SmolLM2, compared with prompt tuning in PEFT on the same rows.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --hybrid

Forward and backward of 8 GSM8K training rows (without the optimizer step, which is the same for both). With
--hybrid, the backbone is a random Qwen3.5 of SmolLM2's width: three in four layers have linear attention.
"""

import argparse
import statistics
import tempfile
from contextlib import AbstractContextManager, nullcontext

import torch
from peft import PromptTuningConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3_5TextConfig

from benchmarks.common import alternate, gsm8k_batch, matrix_product_rate, peak_memory, ratios, smollm2
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix


def save_hybrid(folder: str, tokenizer: str) -> BackboneConfig:
    """Save a random Qwen3.5 of SmolLM2's width and vocabulary, 12 layers, 9 of them with linear attention."""
    settings = Qwen3_5TextConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        linear_num_key_heads=8,
        linear_num_value_heads=16,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return BackboneConfig(name=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--virtual-tokens", type=int, nargs="+", default=[100, 10])
    parser.add_argument("--hybrid", action="store_true", help="a random Qwen3.5 instead of SmolLM2")
    args = parser.parse_args()
    own: AbstractContextManager[str | None] = tempfile.TemporaryDirectory() if args.hybrid else nullcontext()
    with own as folder:
        measure(args, smollm2() if folder is None else save_hybrid(folder, smollm2().name))


def measure(args: argparse.Namespace, config: BackboneConfig) -> None:
    """Print the table of one backbone."""
    batch = gsm8k_batch(config, args.batch_size)
    tokens, width = int(batch.attention_mask.sum()), batch.input_ids.shape[1]
    trained = int((batch.labels != -100).sum())
    print(
        f"{args.batch_size} rows, {width} columns, {tokens} tokens, {trained} labels, "
        f"{torch.get_num_threads()} threads"
    )
    backbone = Backbone(config)
    print("| virtual tokens | speed, PEFT ÷ ours | memory, ours ÷ PEFT | ours | PEFT | matrix rate reached |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in args.virtual_tokens:
        prompt = nn.Parameter(backbone.embedding[:count].clone())

        def ours(prompt: nn.Parameter = prompt) -> None:
            loss, _ = backbone.loss(batch.input_ids, batch.labels, stage_prefix(backbone, [0], [prompt]))
            (loss / trained).backward()
            prompt.grad = None

        settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count)
        model = AutoModelForCausalLM.from_pretrained(config.name, dtype=torch.float32)
        peft_model = get_peft_model(model, settings)

        def peft(peft_model=peft_model) -> None:
            peft_model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
            ).loss.backward()
            peft_model.zero_grad()

        seconds = alternate({"ours": ours, "peft": peft}, args.repeats)
        memory = {"ours": peak_memory(ours), "peft": peak_memory(peft)}
        with FlopCounterMode(display=False) as counter:
            ours()
        rate = max(matrix_product_rate() for _ in range(3))
        share = counter.get_total_flops() / min(seconds["ours"]) / rate
        print(
            f"| {count} | {ratios(seconds['peft'], seconds['ours'])} "
            f"| {memory['ours'] / memory['peft']:.2f} ({memory['ours'] >> 20} of {memory['peft'] >> 20} MiB) "
            f"| {statistics.median(seconds['ours']):.2f} s | {statistics.median(seconds['peft']):.2f} s "
            f"| {share:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

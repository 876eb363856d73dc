"""Speed of batched greedy generation on SmolLM2, compared with PEFT on the same prompts.

python -m benchmarks.generation
"""

import argparse
import statistics
from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.common import alternate, gsm8k, ratios, smollm2
from promptstage.datamodules.gsm8k import GSM8K
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.loading import load_tokenizer
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--virtual-tokens", type=int, default=100)
    args = parser.parse_args()

    config = smollm2()
    data = GSM8K(source=gsm8k(), test_size=args.examples)
    data.connect(load_tokenizer(config))
    data.setup("test")
    examples = data.examples("test")
    # Prompts are truncated to one length: PEFT assigns wrong positions to left-padded prompts, so that only
    # without padding both compute the same.
    shortest = min(len(ids) for ids in data.tokenizer([e.question for e in examples])["input_ids"])
    ids = torch.stack(
        [data.tokenizer(e.question, return_tensors="pt")["input_ids"][0, :shortest] for e in examples]
    )
    mask = torch.ones_like(ids)
    backbone = Backbone(config)
    rows = backbone.embedding[: args.virtual_tokens].clone()
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=args.virtual_tokens)
    model = AutoModelForCausalLM.from_pretrained(config.name, dtype=torch.float32)
    peft_model: Any = get_peft_model(model, settings).eval()
    with torch.no_grad():
        peft_model.prompt_encoder["default"].embedding.weight.copy_(rows)
    outputs: dict[str, list[list[int]]] = {}

    @torch.no_grad()
    def ours() -> None:
        prefix = stage_prefix(backbone, [0], [rows])
        outputs["ours"] = generate(backbone, backbone.tokenizer, ids, mask, prefix, args.new_tokens)

    @torch.no_grad()
    def peft() -> None:
        generated = peft_model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=args.new_tokens, do_sample=False
        )
        eos_ids = {2}
        truncated = []
        for row in generated[:, ids.shape[1] :].tolist():
            length = next((i for i, token in enumerate(row) if token in eos_ids), len(row))
            truncated.append(row[:length])
        outputs["peft"] = truncated

    seconds = alternate({"ours": ours, "peft": peft}, args.repeats)
    same = sum(a == b for a, b in zip(outputs["ours"], outputs["peft"], strict=True))
    print(f"{args.examples} prompts of {shortest} tokens, at most {args.new_tokens} new tokens")
    print("| speed, PEFT ÷ ours | ours | PEFT | same tokens |")
    print("| --- | --- | --- | --- |")
    print(
        f"| {ratios(seconds['peft'], seconds['ours'])} | {statistics.median(seconds['ours']):.1f} s "
        f"| {statistics.median(seconds['peft']):.1f} s | {same} of {args.examples} |"
    )


if __name__ == "__main__":
    main()

"""Accuracy of the embedded backbone: ``python -m promptstage.backbones.embedded.check``.

For each task, prints the accuracy on held-out test questions without a prompt, and after a short full
fine-tuning on the task's worked answers. The first should be low and the second high: the model has the
skill, but the question does not tell it which task is meant.
"""

import argparse
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from promptstage.backbones.embedded.train import DISTRACTORS, HERE, Corpus, style_accuracy


def fine_tune(model, tokenizer, task: str, steps: int, lr: float) -> None:
    """Fine-tune all weights in place on worked answers of ``task``."""
    corpus = Corpus(tokenizer, seed=1, max_documents=1, only=task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for _, (ids, labels) in zip(range(steps), corpus.batches(64), strict=False):
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--count", type=int, default=500, help="test questions per task")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(HERE)
    for task in DISTRACTORS:
        model = AutoModelForCausalLM.from_pretrained(HERE)
        bare = style_accuracy(model, tokenizer, 0, args.count, [task])[task]
        fine_tune(model, tokenizer, task, args.steps, args.lr)
        tuned = style_accuracy(model, tokenizer, 0, args.count, [task])[task]
        print(json.dumps({"task": task, "bare": bare, "fine_tuned": tuned}), flush=True)


if __name__ == "__main__":
    main()

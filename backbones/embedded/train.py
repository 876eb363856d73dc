"""Train the embedded backbone from scratch: ``python -m promptstage.backbones.embedded.train --help``.

For the same question, the corpus contains several answer styles: the worked steps, the final answer alone,
and the answers of three distractor tasks. A question alone therefore does not determine the style. Documents
in the same row share a style, so that the context determines it. Only questions of the ``train`` split are
used (see ``datamodules.tasks.split_of``).
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from promptstage.datamodules.tasks import TASKS, Solution, Task, split_of

HERE = Path(__file__).parent
Style = Callable[[str], Solution]


def _difference(question: str) -> Solution:
    a, b = sorted((int(part) for part in question.split("+")), reverse=True)
    return Solution(f"{a}-{b}", str(a - b))


def _larger(question: str) -> Solution:
    return Solution("", str(max(int(part) for part in question.split("+"))))


def _concatenated(question: str) -> Solution:
    return Solution("", question.replace("+", ""))


def _next_term(question: str) -> Solution:
    terms = [int(term) for term in question.split(",")]
    step = terms[1] - terms[0]
    return Solution(f"{terms[-1]}+{step}", str(terms[-1] + step))


def _count_terms(question: str) -> Solution:
    return Solution("", str(question.count(",") + 1))


def _reversed_terms(question: str) -> Solution:
    return Solution("", ",".join(reversed(question.split(","))))


def _sorted_letters(question: str) -> Solution:
    return Solution("", "".join(sorted(question)))


def _vowels(question: str) -> Solution:
    vowels = [letter for letter in question if letter in "aeiou"]
    return Solution(",".join(vowels), "".join(vowels))


def _upper(question: str) -> Solution:
    return Solution("", question.upper())


def _first_letters(question: str) -> Solution:
    words = question.split()
    return Solution(",".join(f"{word}>{word[0]}" for word in words), "".join(w[0] for w in words))


def _reversed_words(question: str) -> Solution:
    return Solution("", " ".join(reversed(question.split())))


DISTRACTORS: dict[str, tuple[Style, ...]] = {
    "addition": (_difference, _larger, _concatenated),
    "series_sum": (_next_term, _count_terms, _reversed_terms),
    "letter_reversal": (_sorted_letters, _vowels, _upper),
    "last_letter": (_first_letters, _reversed_words, _upper),
}


# The final answer alone is also correct. It is the rarest style, since otherwise no prompt would be needed.
STYLE_WEIGHTS = (2, 1, 2, 2, 2)


def styles(task: str) -> list[Style]:
    """Return the answer styles of ``task``: worked steps, final answer alone, three distractors."""
    solve = TASKS[task].solve
    return [solve, lambda question: Solution("", solve(question).answer), *DISTRACTORS[task]]


def document(question: str, solution: Solution) -> tuple[str, str]:
    """Return prompt and completion in the ``plain`` template."""
    steps = f" {solution.rationale}\n" if solution.rationale else " "
    return f"Question: {question}\nAnswer:", f"{steps}#### {solution.answer}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a byte-level tokenizer without merges, with one token for each word of the template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(w, normalized=False) for w in ("Question:", "Answer:", "####")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=512,
    )


def build_model(vocab_size: int, layers: int, width: int) -> LlamaForCausalLM:
    """Build a small Llama with grouped-query attention (2 query heads per key-value head)."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


class Corpus:
    """Endless stream of rows of documents that share task and style.

    Args:
        tokenizer: the tokenizer.
        seed: seed of tasks, styles and questions.
        max_documents: maximum number of documents per row.
        only: the only task, answered by its worked steps; default: all tasks in all styles.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, seed: int, max_documents: int, only: str | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.only = only
        self.rng = random.Random(seed)
        self.max_documents = max_documents

    def _question(self, task: str) -> str:
        while True:
            question = TASKS[task].sample(self.rng, self.rng.randint(*TASKS[task].lengths))
            if split_of(question) == "train":
                return question

    def row(self) -> tuple[list[int], list[int]]:
        """Sample the token ids and labels (-100 on questions) of one row."""
        task = self.only or self.rng.choice(list(DISTRACTORS))
        style = TASKS[task].solve if self.only else self.rng.choices(styles(task), STYLE_WEIGHTS)[0]
        ids, labels = [self.tokenizer.bos_token_id], [-100]
        for _ in range(self.rng.randint(1, self.max_documents)):
            question = self._question(task)
            prompt, completion = document(question, style(question))
            prompt_ids = self.tokenizer.encode(prompt, add_special_tokens=False)
            answer_ids = self.tokenizer.encode(completion, add_special_tokens=False)
            answer_ids.append(self.tokenizer.eos_token_id)
            ids += prompt_ids + answer_ids
            labels += [-100] * len(prompt_ids) + answer_ids
        return ids, labels

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield right-padded batches of ids and labels, (``size``, n) int64; rows have similar lengths."""
        while True:
            pool = sorted((self.row() for _ in range(size * 16)), key=lambda row: len(row[0]))
            starts = list(range(0, len(pool), size))
            self.rng.shuffle(starts)
            for start in starts:
                rows = pool[start : start + size]
                width = max(len(ids) for ids, _ in rows)
                ids = torch.tensor([r + [0] * (width - len(r)) for r, _ in rows])
                labels = torch.tensor([t + [-100] * (width - len(t)) for _, t in rows])
                yield ids, labels


def held_out(task: Task, count: int, rng: random.Random) -> list[str]:
    """Sample up to ``count`` distinct test questions of a task."""
    questions: dict[str, None] = {}
    for _ in range(50 * count):
        question = task.sample(rng, rng.randint(*task.lengths))
        if split_of(question) == "test":
            questions[question] = None
        if len(questions) == count:
            break
    return list(questions)


@torch.no_grad()
def style_accuracy(
    model, tokenizer, shots: int, count: int = 64, tasks: Iterable[str] = DISTRACTORS
) -> dict[str, float]:
    """Compute the accuracy of greedy decoding on held-out test questions, after ``shots`` examples.

    With 0 shots nothing determines the style; with 2 the context does.
    """
    rng = random.Random(1)
    scores: dict[str, float] = {}
    for name in tasks:
        task = TASKS[name]
        questions = held_out(task, count, rng)
        correct = 0
        for start in range(0, len(questions), 64):
            part = questions[start : start + 64]
            prompts = []
            for question in part:
                examples = (task.sample(rng, rng.randint(*task.lengths)) for _ in range(shots))
                context = "".join("".join(document(q, task.solve(q))) + "<eos>" for q in examples)
                prompts.append(context + document(question, Solution("", ""))[0])
            tokens = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
            out = model.generate(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                max_new_tokens=64,
                do_sample=False,
            )
            texts = tokenizer.batch_decode(out[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
            answers = [task.solve(question).answer for question in part]
            correct += sum(t.split("####")[-1].strip() == a for t, a in zip(texts, answers, strict=True))
        scores[name] = correct / len(questions)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write the backbone to")
    parser.add_argument("--start-from", type=Path, help="continue from the weights in this folder")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=64, help="rows per step")
    parser.add_argument("--max-documents", type=int, default=3, help="maximum number of documents per row")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer()
    if args.start_from:
        model = LlamaForCausalLM.from_pretrained(args.start_from)
    else:
        model = build_model(len(tokenizer), args.layers, args.width)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size:,} parameters, {args.layers} layers", flush=True)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    warmup = min(200, args.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, max(0.02, 1 - (step - warmup) / (args.steps - warmup))),
    )
    batches = Corpus(tokenizer, args.seed, args.max_documents).batches(args.batch_size)
    started = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    for step in range(1, args.steps + 1):
        ids, labels = next(batches)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            hours = (time.time() - started) / 3600
            print(f"step {step} loss {loss.item():.4f} hours {hours:.3f}", flush=True)
        if step % 500 == 0 or step == args.steps:
            model.eval()
            entry: dict[str, Any] = {"step": step, "hours": round((time.time() - started) / 3600, 3)}
            entry |= {"bare": style_accuracy(model, tokenizer, 0)}
            entry |= {"two_shot": style_accuracy(model, tokenizer, 2)}
            model.train()
            print(json.dumps(entry), flush=True)
            model.save_pretrained(args.out)
            tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()

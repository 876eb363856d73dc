"""Greedy decoding on the random backbone, beside transformers and the limit of the memory bandwidth."""

import statistics
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.device import time_actions
from benchmarks.gpu.random_backbone import SIZE, random_tokens
from benchmarks.gpu.report import Rows
from benchmarks.gpu.sections import Bench
from benchmarks.gpu.training import initial_prompt
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.implementation import attention_implementation
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.functional.footprint import Shape, generation_cache, parameters

Generate = Callable[[int], list[list[int]]]
"""Generates the given number of tokens for each prompt."""


def decoding(rows: Rows, bench: Bench) -> None:
    """Measure tokens per second after the prefill, for each batch size."""
    prompt = initial_prompt(bench).bfloat16()
    for batch in bench.sizes.batches:
        ids = random_tokens(bench, batch, bench.sizes.decoding[0])
        limit = roofline(bench, batch)
        actions: dict[str, Generate] = {
            "promptstage": partial(_promptstage, bench, prompt, ids),
            "transformers": partial(_transformers, bench, prompt, ids),
        }
        outputs: dict[str, list[list[int]]] = {}
        for name, action in actions.items():
            with rows.attempt(f"batch {batch}, {name}"):
                outputs[name] = _measure(rows, name, action, batch, limit, bench)
        if len(outputs) == 2:
            pairs = [
                pair for lists in zip(*outputs.values(), strict=True) for pair in zip(*lists, strict=True)
            ]
            share = sum(a == b for a, b in pairs) / len(pairs)
            rows.measure(f"batch {batch}, tokens equal to transformers'", f"{share:.0%}", share=share)


def step_bytes(shape: Shape, sequences: int, columns: float) -> float:
    """Compute the bytes that a decoding step must read: weights but the embedding matrix, and the cache.

    Args:
        columns: number of cached columns of each sequence.
    """
    read = parameters(shape) - (0 if shape.tied else shape.vocab_size * shape.hidden_size)
    return read * SIZE + generation_cache(shape, sequences, 1, SIZE) * columns


def roofline(bench: Bench, batch: int) -> float:
    """Compute the tokens per second at which reading weights and cache takes the whole bandwidth.

    Raises:
        RuntimeError: if the bandwidth was not measured.
    """
    if bench.bandwidth is None:
        raise RuntimeError("the memory bandwidth was not measured")
    length, new = bench.sizes.decoding
    columns = bench.sizes.virtual_tokens + length + new / 2
    return batch * bench.bandwidth / step_bytes(bench.sizes.shape, batch, columns)


def _measure(
    rows: Rows, name: str, action: Generate, batch: int, limit: float, bench: Bench
) -> list[list[int]]:
    """Measure the time of all new tokens but the first, whose step is the prefill; return the tokens.

    Raises:
        ValueError: if the whole generation takes no longer than its first token.
    """
    new = bench.sizes.decoding[1]
    generated = action(new)
    actions = {"all": partial(action, new), "first": partial(action, 1)}
    seconds = time_actions(actions, bench.sizes.repeats, bench.device)
    whole, first = (statistics.median(seconds[key]) for key in actions)
    if whole <= first:
        raise ValueError(f"{new} tokens took {whole:.3g} s, the first one alone {first:.3g} s")
    speed = batch * (new - 1) / (whole - first)
    rows.measure(
        f"batch {batch}, {name}",
        f"{speed:,.0f} tokens/s ({speed / limit:.0%}), first token {first:.3f} s",
        f"bandwidth allows {limit:,.0f} tokens/s",
        tokens_per_second=speed,
        limit=limit,
        first_token_seconds=first,
    )
    return generated


@torch.no_grad()
def _promptstage(bench: Bench, prompt: Tensor, ids: Tensor, new: int) -> list[list[int]]:
    prefix = stage_prefix(bench.model, [0], [prompt])
    # Only its EOS is used, a token that the model does not have.
    tokenizer: Any = SimpleNamespace(eos_token_id=bench.sizes.shape.vocab_size)
    return generate(bench.model, tokenizer, ids, torch.ones_like(ids), prefix, new)


@torch.no_grad()
def _transformers(bench: Bench, prompt: Tensor, ids: Tensor, new: int) -> list[list[int]]:
    """Generate behind the same prompt, given as embeddings before those of the tokens."""
    model = bench.model.model
    embeddings = torch.cat([prompt.expand(len(ids), -1, -1), model.get_input_embeddings()(ids)], dim=1)
    mask = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=ids.device)
    with attention_implementation(model, "sdpa"):
        tokens = model.generate(
            inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=new, do_sample=False
        )
    return tokens.tolist()

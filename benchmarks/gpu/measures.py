"""Saliency and the search for stages on the random backbone."""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.device import peak_bytes, time_actions
from benchmarks.gpu.random_backbone import GIB, random_tokens
from benchmarks.gpu.report import Rows
from benchmarks.gpu.sections import Bench
from benchmarks.gpu.training import initial_prompt
from benchmarks.saliency import materialized, ours
from promptstage.lightning_modules.backbone.implementation import attention_implementation
from promptstage.lightning_modules.backbone.layer_states import pooled_outputs
from promptstage.lightning_modules.functional.cka import LinearCKA
from promptstage.lightning_modules.functional.partition import find_partition

# Differences of bfloat16 rounding; the sum over heads cancels.
SALIENCY_BOUND = 0.1
BATCH = 16
STAGES = range(3, 6)
RESAMPLES = 100


def saliency(rows: Rows, bench: Bench) -> None:
    """Measure the saliency of the prompt's columns in all layers, beside eager attention weights."""
    n, layers = bench.sizes.saliency_length, range(bench.model.num_layers)
    ids = random_tokens(bench, 1, n)
    labels = torch.where(torch.arange(n, device=bench.device) >= n // 3, ids, -100)
    prompt = initial_prompt(bench).bfloat16()

    def eager() -> list[Tensor]:
        with attention_implementation(bench.model.model, "eager"):
            return materialized(bench.model.model, prompt, ids, labels)

    actions: dict[str, Callable[[], list[Tensor]]] = {
        "promptstage": partial(ours, bench.model, prompt, ids, labels, layers),
        "eager": eager,
    }
    results: dict[str, list[Tensor]] = {}
    for name, action in actions.items():
        with rows.attempt(f"n = {n}, {name}"):
            results[name] = action()
            peak = peak_bytes(action, bench.device)
            seconds = statistics.median(time_actions({name: action}, bench.sizes.repeats, bench.device)[name])
            measured = f"{seconds:.3f} s, peak memory {peak / GIB:.2f} GiB"
            rows.measure(f"n = {n}, {name}", measured, seconds=seconds, bytes=peak)
    if len(results) == 2:
        pairs = zip(*results.values(), strict=True)
        difference = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in pairs)
        rows.check(f"n = {n}, difference from eager", difference, SALIENCY_BOUND)


def partition(rows: Rows, bench: Bench) -> None:
    """Measure features of all layers beside the forward pass alone, and CKA with resamples on the host."""
    examples, length = bench.sizes.probe
    batches = random_tokens(bench, examples, length).split(BATCH)
    ends = [torch.full((len(ids),), length, device=bench.device) for ids in batches]
    features: list[Tensor] = []

    @torch.no_grad()
    def forward() -> None:
        for ids, end in zip(batches, ends, strict=True):
            arguments, _ = bench.model.packed(ids, end)
            bench.model.body(**arguments)

    def pooled() -> None:
        features[:] = [
            pooled_outputs(bench.model, ids, end)[0] for ids, end in zip(batches, ends, strict=True)
        ]

    seconds = time_actions({"forward": forward, "pooled": pooled}, bench.sizes.repeats, bench.device)
    alone, hooked = (statistics.median(seconds[name]) for name in ("forward", "pooled"))
    rows.measure(
        f"features of {examples} examples",
        f"{hooked:.3f} s",
        f"forward pass alone {alone:.3f} s",
        seconds=hooked,
        forward_seconds=alone,
    )
    gathered = torch.cat(features, dim=1).cpu()

    def search() -> None:
        rows_of = torch.arange(examples)
        find_partition(LinearCKA(gathered), "cka", STAGES, rows_of, resamples=RESAMPLES)

    host = torch.device("cpu")
    duration = statistics.median(time_actions({"search": search}, 1, host)["search"])
    rows.measure(f"CKA and {RESAMPLES} resamples, on the host", f"{duration:.3f} s", seconds=duration)

"""Memory predicted by ``promptstage footprint``, compared with measurements of SmolLM2 on the CPU.

    python -m benchmarks.scaling

A training step of prompt tuning (forward and backward of GSM8K rows) and a generation. Tensors saved for the
backward pass are counted at the end of the forward pass; peaks are those of the process, above the resident
memory before. Activations are also counted in bfloat16.
"""

import argparse
import ctypes
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.common import gsm8k_batch, peak_memory, smollm2
from benchmarks.dpc import disable_eos
from promptstage.command_line.footprint import shape_of
from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.functional.footprint import (
    FLOAT32,
    Shape,
    Step,
    generation_cache,
    generation_working,
    parameters,
    step_activations,
    step_working,
)

M_MMAP_THRESHOLD = -3  # from malloc.h


class _Saved:
    """Tensor saved for the backward pass; released with its node of the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_for_backward(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """Count the bytes that the graph of ``forward`` holds when it returns, without the model's parameters."""
    saved: WeakSet[_Saved] = WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        entry = _Saved(tensor.detach())  # not detached, it would hold the graph itself
        saved.add(entry)
        return entry

    with saved_tensors_hooks(pack, lambda entry: entry.tensor):
        loss = forward()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = [entry.tensor.untyped_storage() for entry in saved]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    assert loss.requires_grad  # the graph was alive until here
    return sum(size for pointer, size in sizes.items() if pointer not in parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--virtual-tokens", type=int, default=100)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--moving-threshold", action="store_true", help="keep glibc's dynamic mmap threshold")
    args = parser.parse_args()
    if not args.moving_threshold:
        # Otherwise glibc keeps freed memory in blocks of up to 32 MiB, which would count toward a peak.
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 65536)
    config = smollm2()
    shape = shape_of(config.name)
    print("| | predicted | measured | measured ÷ predicted |")
    print("| --- | --- | --- | --- |")
    for checkpointing in (False, True):
        for dtype in ("float32", "bfloat16"):
            changed = replace(config, dtype=dtype, gradient_checkpointing=checkpointing)
            training(changed, shape, args.batch_size, args.virtual_tokens)
    generation(config, shape, args.questions, args.new_tokens, args.virtual_tokens)


def row(what: str, predicted: int, measured: int) -> None:
    """Print a row of the table."""
    mebibytes = " | ".join(f"{value / 2**20:.1f} MiB" for value in (predicted, measured))
    print(f"| {what} | {mebibytes} | {measured / predicted:.3f} |", flush=True)


def training(config: BackboneConfig, shape: Shape, rows: int, virtual_tokens: int) -> None:
    """Print the rows of a training step."""
    batch = gsm8k_batch(config, rows)
    backbone, checkpointing = Backbone(config), config.gradient_checkpointing
    size = backbone.embedding.element_size()
    name = f"{config.dtype}, recomputed" if checkpointing else config.dtype
    if not checkpointing:
        weights = sum(weight.numel() * weight.element_size() for weight in backbone.model.parameters())
        row(f"weights, {name}", parameters(shape) * size, weights)
    prompt = nn.Parameter(backbone.embedding[:virtual_tokens].float().clone())
    # Weights of 2 bytes go with bfloat16 arithmetic, as in the trainer's bf16-mixed.
    precision = nullcontext() if size == FLOAT32 else torch.autocast("cpu", torch.bfloat16)
    # With few labels the logits are small, and the backward pass through a block dominates.
    last = batch.attention_mask.cumsum(1) == batch.attention_mask.sum(1, keepdim=True)
    few = torch.where(last & (batch.attention_mask > 0), batch.labels, -100)
    tokens = int(batch.attention_mask.sum())
    for labels, which in ((batch.labels, ""), (few, ", few labels")):

        def forward(labels: Tensor = labels) -> Tensor:
            with precision:
                return backbone.loss(batch.input_ids, labels, stage_prefix(backbone, [0], [prompt]))[0]

        def whole(forward: Callable[[], Tensor] = forward) -> None:
            forward().backward()
            prompt.grad = None

        step = Step(rows, labels.shape[1], virtual_tokens, tokens, int((labels != -100).sum()))
        saved = step_activations(shape, step, size, checkpointing, repeated=False)
        row(f"saved for backward, {name}{which}", saved, saved_for_backward(forward, backbone))
        if size == FLOAT32:  # bfloat16 matrix products make copies on the CPU that they do not on a GPU
            whole()
            peak = saved + step_working(shape, step, size, checkpointing, repeated=False)
            row(f"peak of a step, {name}{which}", peak, peak_memory(whole))


@torch.no_grad()
def generation(
    config: BackboneConfig, shape: Shape, questions: int, new_tokens: int, virtual_tokens: int
) -> None:
    """Print the rows of a generation."""
    backbone = Backbone(config)
    disable_eos(backbone)
    ids = gsm8k_batch(config, questions).input_ids[:, :128]
    prefix = stage_prefix(backbone, [0], [backbone.embedding[:virtual_tokens]])
    cache = PrefixCache(prefix, backbone.num_layers, ids.shape[1] + new_tokens)
    positions = virtual_tokens + torch.arange(ids.shape[1])[None]
    context = AttentionContext(prefix=prefix, prefix_in_cache=True)
    backbone.model(input_ids=ids, position_ids=positions, context=context, **{backbone.cache_argument: cache})
    size = sum(
        buffer.nbytes
        for layer in cache.buffers.values()
        for buffer in (layer.keys, layer.values)
        if buffer is not None
    )
    del cache
    predicted = generation_cache(
        shape, questions, virtual_tokens + ids.shape[1] + new_tokens, backbone.embedding.element_size()
    )
    row("generation's cache, float32", predicted, size)

    def answer() -> None:
        generate(backbone, backbone.tokenizer, ids, torch.ones_like(ids), prefix, new_tokens)

    answer()
    predicted += generation_working(shape, questions, ids.shape[1], backbone.embedding.element_size())
    row("peak of a generation, float32", predicted, peak_memory(answer))


if __name__ == "__main__":
    main()

"""Cost of DHAM's CKA partition on SmolLM2, compared with a forward pass, and its scaling with model size.

    python -m benchmarks.partition

The partition comprises features from hooks, gathering, centered kernel alignment (CKA), dendrogram or
segmentation, 100 resamples, ``partition.json`` and four figures. The forward pass alone runs the same packed
batches up to the last block. DHAM (Dynamic Hierarchy-Aware Mechanism): "Unlocking coherent reasoning in LLMs
with hierarchical soft prompts", anonymous, under review.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch

from benchmarks.common import ROOT, alternate, peak_memory, ratios, smollm2
from promptstage.callbacks.partition.callback import CKAPartition
from promptstage.datamodules.gsm8k import GSM8K
from promptstage.lightning_modules.backbone.loading import load_tokenizer
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.functional.cka import LinearCKA, use_grams
from promptstage.lightning_modules.functional.partition import find_partition

# Layers, rows, width: SmolLM2, the embedded backbone with tokens as rows, 8B, 13B and 70B models.
SHAPES = [
    (30, 96, 576),
    (30, 512, 576),
    (30, 1024, 576),
    (12, 4800, 96),
    (32, 96, 4096),
    (40, 96, 5120),
    (80, 96, 8192),
    (80, 512, 8192),
]


def on_smollm2(examples: int, repeats: int) -> None:
    """Measure time and memory of the partition and of the forward pass alone."""
    folder = Path(os.environ.get("PROMPTSTAGE_DATA", ROOT / "data")) / "gsm8k"
    config = smollm2()
    data = GSM8K(source=str(folder))
    data.connect(load_tokenizer(config))
    module = DHAM(config, val_generations=0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer._data_connector.attach_datamodule(module, data)
    data.setup("fit")
    backbone = module.load_backbone()
    batches = [(batch.gold.input_ids, batch.gold.rationale[:, 0]) for batch in data.probe_loader(examples, 0)]

    @torch.no_grad()
    def bare() -> None:
        for ids, ends in batches:
            arguments, _ = backbone.packed(ids, ends)
            backbone.body(**arguments)

    def whole() -> None:
        module.stages = None
        with tempfile.TemporaryDirectory() as run:
            CKAPartition(Path(run)).setup(trainer, module, "fit")

    tokens = sum(int(ends.sum()) for _, ends in batches)
    bare()
    start = time.perf_counter()
    whole()
    first = time.perf_counter() - start
    seconds = alternate({"bare": bare, "whole": whole}, repeats)
    memory = {"bare": peak_memory(bare), "whole": peak_memory(whole)}
    print(f"{examples} questions, {tokens} tokens, {torch.get_num_threads()} threads")
    print("| whole ÷ bare | whole | bare | first time in a process | memory, whole | bare | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {ratios(seconds['whole'], seconds['bare'])} | {statistics.median(seconds['whole']):.2f} s "
        f"| {statistics.median(seconds['bare']):.2f} s | {first:.2f} s | {memory['whole'] >> 20} MiB "
        f"| {memory['bare'] >> 20} MiB | {(memory['whole'] - memory['bare']) >> 20} MiB |",
        flush=True,
    )


def growth(shapes: list[tuple[int, int, int]], resamples: int) -> None:
    """Measure CKA, segmentation and bootstrap on synthetic features of models up to 70B parameters."""
    print("| layers | rows | width | features | way | CKA | with resamples | peak memory |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for layers, rows, width in shapes:
        features = torch.randn(layers, rows, width)
        features = features.cumsum(0)  # neighboring layers are similar
        start = time.perf_counter()
        LinearCKA(features).matrix()
        once = time.perf_counter() - start

        def search(features: torch.Tensor = features) -> None:
            find_partition(
                LinearCKA(features), "cka", range(3, 6), torch.arange(features.shape[1]), resamples=resamples
            )

        memory, seconds = measured(search)
        way = "Gram" if use_grams(layers, rows, width) else "cross-products"
        print(
            f"| {layers} | {rows} | {width} | {features.numel() * 4 >> 20} MiB | {way} | {once:.2f} s "
            f"| {seconds:.2f} s | {memory >> 20} MiB |",
            flush=True,
        )


def measured(action: Callable[[], object]) -> tuple[int, float]:
    """Measure the peak memory in bytes and the seconds of one call."""
    start = time.perf_counter()
    memory = peak_memory(action)
    return memory, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=100)
    args = parser.parse_args()
    on_smollm2(args.examples, args.repeats)
    growth(SHAPES, args.resamples)


if __name__ == "__main__":
    main()

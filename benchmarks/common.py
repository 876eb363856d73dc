"""Shared parts of the benchmarks: real model and data, peak memory, timing, speed of the machine."""

import ctypes
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from promptstage.datamodules.collate import Collate
from promptstage.datamodules.encoding import Tokens, encode
from promptstage.datamodules.gsm8k import GSM8K
from promptstage.datamodules.prompt_format import PromptFormat
from promptstage.datamodules.templates import Template
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer
from promptstage.utilities.errors import UserError

ROOT = Path(__file__).parents[1]


def smollm2() -> BackboneConfig:
    """Return the configuration of the converted SmolLM2; ``make smollm2`` creates it."""
    folder = Path(os.environ.get("PROMPTSTAGE_SMOLLM2", ROOT / "models" / "smollm2"))
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: run 'make smollm2' first")
    return BackboneConfig(name=str(folder))


def gsm8k() -> str:
    """Return the folder of GSM8K, ``gsm8k`` in the folder that ``PROMPTSTAGE_DATA`` names."""
    return str(Path(os.environ.get("PROMPTSTAGE_DATA", ROOT / "data")) / "gsm8k")


def gsm8k_batch(backbone: BackboneConfig, rows: int) -> Tokens:
    """Encode the first ``rows`` training rows of GSM8K as one right-padded batch."""
    data = GSM8K(source=gsm8k())
    with (Path(gsm8k()) / "train.jsonl").open(encoding="utf-8") as file:
        examples = [data.parse(json.loads(next(file)), "train", i) for i in range(rows)]
    tokenizer = load_tokenizer(backbone)
    encoded = encode(examples, Template(PromptFormat(), tokenizer), tokenizer)
    return Collate(tokenizer.eos_token_id, data.name, data.max_new_tokens, data.stop)(encoded).gold


def peak_memory(action: Callable[[], object]) -> int:
    """Measure the peak memory of ``action`` in bytes, above the resident memory before it (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory must not hide new allocations
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    action()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def alternate(
    actions: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Measure the seconds of each action, in turn, so that drifts in machine speed affect all equally.

    Args:
        clock: returns seconds; ``time.process_time`` for CPU time, which other programs affect little.
    """
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            start = clock()
            action()
            seconds[name].append(clock() - start)
    return seconds


def ratios(numerator: list[float], denominator: list[float]) -> str:
    """Format the median, minimum and maximum of the pairwise ratios."""
    pairs = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def matrix_product_rate(size: int = 2048, repeats: int = 8) -> float:
    """Measure the machine's peak float32 rate in a square matrix product, in FLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(_timed(lambda: a @ b) for _ in range(repeats))
    return 2 * size**3 / best


def _timed(action: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start

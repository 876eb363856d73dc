"""What the benchmarks share: the real model, real rows, peak memory and the machine's own speed."""

import ctypes
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from promptstage.datamodules.encoding import Collate, Tokens, encode
from promptstage.datamodules.gsm8k import GSM8K
from promptstage.datamodules.templates import Template
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError

ROOT = Path(__file__).parents[1]


def smollm2() -> BackboneConfig:
    """The converted real model; ``make smollm2`` puts it there."""
    folder = Path(os.environ.get("PROMPTSTAGE_SMOLLM2", ROOT / "models" / "smollm2"))
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: run 'make smollm2' first")
    return BackboneConfig(name=str(folder))


def gsm8k_batch(backbone: BackboneConfig, rows: int) -> Tokens:
    """The first ``rows`` GSM8K training rows as one right-padded batch.

    ``PROMPTSTAGE_DATA`` names the folder that holds ``gsm8k/train.jsonl``.
    """
    folder = Path(os.environ.get("PROMPTSTAGE_DATA", ROOT / "data")) / "gsm8k"
    data = GSM8K(backbone=backbone, source=str(folder))
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        examples = [data.parse(json.loads(next(file)), "train", i) for i in range(rows)]
    tokenizer = data.tokenizer
    encoded = encode(examples, Template("plain", tokenizer), tokenizer)
    return Collate(tokenizer.eos_token_id, data.name, data.max_new_tokens, data.stop)(encoded).gold


def peak_memory(action: Callable[[], object]) -> int:
    """Bytes that ``action`` needs at its peak above what is resident before it (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory must not hide what is needed anew
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    action()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def alternate(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each action, taken in turn so that a drift of the machine's speed meets all alike."""
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(numerator: list[float], denominator: list[float]) -> str:
    """Median, least and greatest of the pairwise ratios."""
    pairs = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def matrix_product_rate(size: int = 2048, repeats: int = 8) -> float:
    """The machine's best float32 rate in a plain square matrix product, FLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(_timed(lambda: a @ b) for _ in range(repeats))
    return 2 * size**3 / best


def _timed(action: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start

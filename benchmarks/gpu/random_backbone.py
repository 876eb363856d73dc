"""Random Llama of a given shape, initialized on the device in bfloat16."""

import time
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.device import copy_bandwidth, synchronize
from benchmarks.gpu.report import Rows
from benchmarks.gpu.sections import Bench
from promptstage.lightning_modules.backbone import wrapped
from promptstage.lightning_modules.backbone.attention import IMPLEMENTATION, register
from promptstage.lightning_modules.backbone.fingerprint import Identity
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.functional.footprint import Shape, resident_weights

SIZE = 2  # bytes per weight and activation
POSITIONS = 8192
GIB = 2**30


def random_llama(shape: Shape, device: torch.device, seed: int = 0) -> Any:
    """Build a Llama with random weights in bfloat16 on ``device``; nothing is allocated elsewhere.

    It has no EOS token, so that every generation runs to its full length.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    register()
    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=shape.tied,
        attention_bias=shape.qkv_bias,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=IMPLEMENTATION
        )
    return model.requires_grad_(False).eval()


def random_tokens(bench: Bench, rows: int, length: int) -> Tensor:
    """Draw (rows, length) token ids on the CPU, the same on every device."""
    draw = torch.Generator().manual_seed(rows * length)
    ids = torch.randint(bench.sizes.shape.vocab_size, (rows, length), generator=draw)
    return ids.to(bench.device)


def build(rows: Rows, bench: Bench) -> None:
    """Build and verify the backbone, measure the bandwidth that decoding is compared with."""
    bandwidth = copy_bandwidth(bench.sizes.copied, bench.device)
    rows.measure("memory bandwidth of a copy", f"{bandwidth / 1e9:,.0f} GB/s", bandwidth=bandwidth)
    bench.bandwidth = bandwidth
    begin = time.perf_counter()
    model = random_llama(bench.sizes.shape, bench.device)
    synchronize(bench.device)
    built = time.perf_counter()
    # No checkpoint will belong to these weights: hashing all of them on the host would take a minute.
    with patch.object(wrapped, "identify", return_value=Identity("random", frozenset())):
        bench.backbone = Backbone(BackboneConfig("random Llama", dtype="bfloat16"), model)
    synchronize(bench.device)
    verified = time.perf_counter()
    rows.measure("initialization of the weights", f"{built - begin:.1f} s", seconds=built - begin)
    rows.measure("verification behind a prefix", f"{verified - built:.1f} s", seconds=verified - built)
    held = sum(parameter.nbytes for parameter in model.parameters())
    planned = resident_weights(bench.sizes.shape, SIZE)
    rows.check("weights beyond the planned ones", (held - planned) / GIB, 0, " GiB")

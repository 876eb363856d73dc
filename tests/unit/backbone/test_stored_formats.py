"""Weights stored in a format without a backward pass are dequantized."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from promptstage.lightning_modules.backbone.model import Backbone
from tests.unit.backbone.tiny import random_model

FP4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def dequantized(blocks: Tensor, scales: Tensor) -> np.ndarray:
    """Return (experts, in, out) of MXFP4: blocks of 32 values (4 bits each) with a power of 2 as scale."""
    low, high = blocks.numpy() & 15, blocks.numpy() >> 4
    codes = np.stack([low, high], axis=-1).reshape(*blocks.shape[:3], 32)
    values = FP4[codes & 7] * np.where(codes & 8, -1, 1)
    values = values * 2.0 ** (scales.numpy().astype(int) - 127)[..., None]
    return values.reshape(*values.shape[:2], -1).swapaxes(1, 2)


def test_mxfp4(tmp_path: Path) -> None:
    model = random_model("gpt_oss", dtype=torch.bfloat16, intermediate_size=64, experts_implementation=None)
    model.save_pretrained(tmp_path)
    draw = torch.Generator().manual_seed(0)
    stored = load_file(tmp_path / "model.safetensors")
    names = [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]
    for name in names:
        experts, rows, columns = stored.pop(name).shape
        shape = (experts, columns, rows // 32)
        stored[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), generator=draw, dtype=torch.uint8)
        stored[f"{name}_scales"] = torch.randint(122, 126, shape, generator=draw, dtype=torch.uint8)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(config))

    backbone = Backbone(str(tmp_path), dtype="float32")
    weights = dict(backbone.model.named_parameters())
    assert len(names) == 8
    for name in names:
        expected = dequantized(stored[f"{name}_blocks"], stored[f"{name}_scales"])
        assert weights[name].dtype == torch.float32
        assert np.array_equal(weights[name].numpy(), expected)

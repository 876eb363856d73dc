"""The number of questions that run at a time follows the free memory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from promptstage.lightning_modules import evaluation_memory as memory
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from tests.unit.backbone.tiny import moved, tiny_backbone


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_row_is_as_large_as_its_cache(family: str) -> None:
    backbone, columns = tiny_backbone(family), 11
    cache = PrefixCache(None, backbone.num_layers, columns, backbone.attention_layers)
    ids = torch.zeros(1, columns, dtype=torch.int64)
    with torch.no_grad():
        backbone.model(input_ids=ids, use_cache=True, **{backbone.cache_argument: cache})
    parts = [part for layer in cache.buffers.values() for part in (layer.keys, layer.values)]
    cached = sum(part.numel() * part.element_size() for part in parts if part is not None)
    assert memory.row_bytes(backbone, columns) == cached + 2 * backbone.vocab_size * 4


def module_with(backbone: Backbone, automatic: bool = True, limit: Any = 1.0) -> tuple[Any, Any]:
    """A method whose trainer has texts of 20 tokens, and its data module."""
    data = SimpleNamespace(automatic_eval_batch_size=automatic, eval_batch_size=16, longest=lambda: 20)
    limits = {f"limit_{loop}_batches": 1.0 for loop in ("val", "predict")} | {"limit_test_batches": limit}
    module: Any = moved("prompt", backbone)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module._trainer = SimpleNamespace(datamodule=data, strategy=strategy, **limits)
    return module, data


@pytest.mark.parametrize("room", [0, 1, 9, 64, 1000])
def test_half_of_the_free_memory_is_used(room: int, llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * room * memory.row_bytes(llama, 20 + 5)  # with the virtual tokens
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    module, data = module_with(llama)
    memory.choose_eval_batch_size(module)
    assert data.eval_batch_size == min(max(room, 1), 64)


@pytest.mark.parametrize("options", [{"automatic": False}, {"limit": 3}, {"limit": 0.5}, {"limit": 1}])
def test_a_number_or_a_limit_of_batches_keeps_it(options: dict[str, Any], llama: Backbone) -> None:
    module, data = module_with(llama, **options)
    memory.choose_eval_batch_size(module)
    assert data.eval_batch_size == 16


def test_the_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    whole = memory.free_memory(torch.device("cpu"))
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory(torch.device("cpu")) == pytest.approx(whole, rel=0.2)
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.free_memory(torch.device("cpu")) == 4000

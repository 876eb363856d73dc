"""Counts of floating-point operations against torch's counter on a small model."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.functional import operations
from promptstage.lightning_modules.functional.footprint import LLAMA3_8B, Shape, Step
from tests.unit.backbone.tiny import random_model

WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
SHAPE = Shape(128, 4, 4, 2, 32, 256, 64, tied=True)


def counted(run: Callable[[], object]) -> int:
    """Count the operations of a call, with attention as products, since torch counts no fused CPU kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture
def backbone() -> Backbone:
    return Backbone(BackboneConfig(), random_model("llama", dtype=torch.float32, **WIDE))


@pytest.mark.parametrize("virtual_tokens", [1, 40])
def test_training_step(virtual_tokens: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """With attention on the padded batch, as on a GPU."""
    monkeypatch.setattr(AttentionContext, "runs_in_blocks", lambda *args: False)
    prompt = torch.randn(virtual_tokens, 128, requires_grad=True)
    ids = torch.arange(6 * 50).view(6, 50) % 64
    labels = ids.clone()
    labels[:, :20] = -100

    def loss() -> Tensor:
        return backbone.loss(ids, labels, stage_prefix(backbone, [0], [prompt]))[0]

    step = Step(6, 50, virtual_tokens, tokens=300, labels=180)
    expected = operations.step_operations(SHAPE, step, recomputed_scores=False)
    # The first block has no gradient of its queries, and the last one none of tokens without a label.
    assert counted(lambda: loss().backward()) == pytest.approx(expected, rel=0.06)
    with torch.no_grad():
        forward = operations.forward_operations(SHAPE, step) + operations.output_operations(SHAPE, 180)
        prompt_forward = counted(lambda: stage_prefix(backbone, [0], [prompt]))
        assert counted(loss) - prompt_forward == pytest.approx(forward, rel=0.05)
        own = Step(1, virtual_tokens, 0, virtual_tokens, 0)
        assert prompt_forward == operations.forward_operations(SHAPE, own)


@torch.no_grad()
def test_generation(backbone: Backbone) -> None:
    prefix = stage_prefix(backbone, [0], [torch.randn(5, 128)])
    ids, mask = torch.ones(3, 20, dtype=torch.long), torch.ones(3, 20, dtype=torch.long)
    expected = operations.prefill_operations(SHAPE, 3, 20, 5)
    expected += sum(operations.decoding_operations(SHAPE, 3, 25 + step) for step in range(1, 8))

    def choose(logits: Tensor, rows: Sequence[int]) -> Tensor:
        return torch.full((len(rows),), 20)  # no end token

    def run() -> object:
        return generate(backbone, backbone.tokenizer, ids, mask, prefix, 8, choose=choose)

    assert counted(run) == pytest.approx(expected, rel=0.02)


def test_llama_3_8b_by_hand() -> None:
    # 2 operations for each of 6,979,321,856 weights of the blocks' matrices; 4 · 32 · 4096 per query and key.
    step = Step(1, 1000, 0, 1000, 0)
    assert operations.forward_operations(LLAMA3_8B, step) == 1000 * 2 * 6_979_321_856 + 32 * 4 * 4096 * 10**6
    assert operations.output_operations(LLAMA3_8B, 1) == 2 * 4096 * 128_256

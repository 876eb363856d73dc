"""Families whose blocks pass on no keyword arguments, in threads, in recomputation and in copies."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.carrier import Carrier, running_context
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.lora import LoRA
from tests.unit.backbone.hybrids import hybrid_backbone
from tests.unit.backbone.tiny import random_ids, tiny_backbone

FAMILIES = ("stablelm", "nemotron", "mamba2")


def prompt(seed: int) -> Tensor:
    return torch.randn(4, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_such_families_carry_their_context(family: str) -> None:
    backbone = hybrid_backbone(family)
    assert isinstance(backbone.model.forward, Carrier)
    assert isinstance(backbone.body.forward, Carrier)
    assert backbone.cache_argument in ("cache", "cache_params", "past_key_values")
    assert running_context() is None
    assert not isinstance(tiny_backbone().model.forward, Carrier)


@pytest.mark.parametrize("family", FAMILIES)
def test_context_ends_with_an_error(family: str) -> None:
    backbone = hybrid_backbone(family)
    with pytest.raises(IndexError):
        backbone(torch.tensor([[10**6]]))
    assert running_context() is None


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_have_contexts_of_their_own(family: str) -> None:
    backbone, (row,) = hybrid_backbone(family), random_ids(6)
    with torch.no_grad():
        prefixes = [None if seed == 0 else stage_prefix(backbone, [0], [prompt(seed)]) for seed in range(4)]
        alone = [backbone(row[None], prefix) for prefix in prefixes]
    assert not torch.allclose(alone[1], alone[2])
    barrier = Barrier(4)

    def run(prefix: Any) -> list[Tensor]:
        barrier.wait()
        with torch.no_grad():
            return [backbone(row[None], prefix) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        for expected, results in zip(alone, pool.map(run, prefixes), strict=True):
            assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_recomputed_in_the_context_of_their_forward_pass(family: str) -> None:
    """Also if the backward pass is in another thread, and after another forward pass."""
    (row,) = random_ids(6)
    gradients = []
    for checkpointing in (False, True):
        backbone = hybrid_backbone(family, gradient_checkpointing=checkpointing)
        virtual = prompt(1).requires_grad_()
        total, _ = backbone.loss(row[None], row[None], stage_prefix(backbone, [0], [virtual]))
        with torch.no_grad():
            backbone.loss(row[None], row[None], stage_prefix(backbone, [0], [prompt(2)]))
        with ThreadPoolExecutor(1) as pool:
            gradients.append(pool.submit(torch.autograd.grad, total, virtual).result()[0])
    assert torch.equal(*gradients)


def test_adapters_are_added_to_a_copy_alone() -> None:
    backbone, (row,) = hybrid_backbone("stablelm"), random_ids(6)
    before = backbone(row[None])
    module = LoRA(backbone, rank=2)
    module.configure_prompts(torch.Generator())
    with torch.no_grad():
        for parameter in module.trained_parameters():
            parameter.fill_(0.1)
    assert torch.equal(backbone(row[None]), before)
    assert not torch.allclose(module.backbone(row[None]), before)

"""Hybrid models behind soft prompts equal stock models in which the virtual tokens are part of the text."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.attention import AttentionContext
from promptstage.lightning_modules.backbone.decoding_step import next_logits
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from scripts.late_prompts import grown_logits
from tests.unit.backbone.hybrids import HYBRIDS, float64_arithmetic, hybrid_backbone, hybrid_model
from tests.unit.backbone.tiny import Characters, pad, random_ids

LENGTHS = (7, 1, 5, 2, 5)
STAGES = {
    "prompt": ([0], [5], "accumulate"),
    "single": ([0], [1], "accumulate"),
    "late": ([2], [5], "accumulate"),
    "dham": ([0, 1, 2], [3, 2, 4], "accumulate"),
    "dham-replace": ([0, 2], [2, 4], "replace"),
}


class Pair(NamedTuple):
    backbone: Backbone
    stock: Any


@pytest.fixture(scope="module", params=HYBRIDS)
def models(request: pytest.FixtureRequest) -> Pair:
    with float64_arithmetic():
        return Pair(hybrid_backbone(request.param), hybrid_model(request.param, "eager"))


@pytest.fixture
def pair(models: Pair) -> Iterator[Pair]:
    with float64_arithmetic():
        yield models


def soft_prompts(lengths: list[int], seed: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(length, 32, generator=draw, dtype=torch.float64).requires_grad_() for length in lengths
    ]


def differs(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).abs().max())


@torch.no_grad()
def cached_logits(backbone: Backbone, rows: list[Tensor], prefix: Prefix | None, new: Tensor) -> Tensor:
    """(B, t + 1, vocabulary): after left-padded prompts, and after each of t given tokens (B, t)."""
    ids, mask = pad(rows, "left", filler=11)
    cache = PrefixCache(prefix, backbone.num_layers, ids.shape[1] + new.shape[1], backbone.attention_layers)
    first = 0 if prefix is None else prefix.num_positions
    positions = first + (mask.cumsum(-1) - 1).clamp(min=0)
    logits = []
    for step in range(new.shape[1] + 1):
        context = AttentionContext(prefix=prefix, prefix_in_cache=True)
        logits.append(next_logits(backbone, ids, mask, positions, cache, context))
        if step < new.shape[1]:
            ids, positions = new[:, step : step + 1], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return torch.stack(logits, dim=1)


def test_layers_with_attention_and_with_mixers_are_found(pair: Pair) -> None:
    backbone = pair.backbone
    assert backbone.mixers
    if backbone.model.config.model_type == "falcon_h1":
        assert list(backbone.mixers) == list(backbone.attention_layers) == [0, 1, 2, 3]
    else:
        assert not backbone.mixers.keys() & set(backbone.attention_layers)
    # Wrapped once, whatever is made of the model.
    assert Backbone(backbone.config, backbone.model).mixers == backbone.mixers


@pytest.mark.parametrize("stages", STAGES)
def test_logits_loss_and_gradient(pair: Pair, stages: str) -> None:
    backbone, stock = pair
    starts, lengths, mode = STAGES[stages]
    rows = random_ids(*LENGTHS)
    ours, theirs = soft_prompts(lengths), soft_prompts(lengths)
    prefix = stage_prefix(backbone, starts, ours, mode)
    batch, mask = pad(rows, "right")
    labels = torch.where(mask.bool(), batch, -100)
    total, each = backbone.loss(batch, labels, prefix)
    expected = [grown_logits(stock, row, starts, theirs, mode) for row in rows]
    for row, logits in zip(rows, expected, strict=True):
        with torch.no_grad():
            assert differs(backbone(row[None], prefix)[0], logits) < 1e-9
    losses = torch.stack(
        [
            cross_entropy(logits[:-1], row[1:], reduction="sum")
            for row, logits in zip(rows, expected, strict=True)
        ]
    )
    assert differs(each, losses) < 1e-9
    gradients = zip(torch.autograd.grad(total, ours), torch.autograd.grad(losses.sum(), theirs), strict=True)
    for actual, reference in gradients:
        assert reference.abs().max() > 1e-3
        assert differs(actual, reference) < 1e-9


@pytest.mark.parametrize("stages", [None, *STAGES])
def test_cached_generation_with_left_padding(pair: Pair, stages: str | None) -> None:
    backbone, stock = pair
    starts, lengths, mode = STAGES[stages] if stages else ([], [], "accumulate")
    prompts = soft_prompts(lengths)
    rows, new = random_ids(*LENGTHS), torch.stack(random_ids(*[3] * len(LENGTHS), seed=5))
    with torch.no_grad():
        prefix = stage_prefix(backbone, starts, prompts, mode) if stages else None
        logits = cached_logits(backbone, rows, prefix, new)
        again = cached_logits(backbone, rows, prefix, new)  # the prefix is not changed
        for row, following, actual in zip(rows, new, logits, strict=True):
            text = torch.cat([row, following])
            expected = grown_logits(stock, text, starts, prompts, mode)[len(row) - 1 :]
            assert differs(actual, expected) < 1e-9
    assert torch.equal(logits, again)


class Ending(Characters):
    """Characters of which one ends a text."""

    eos_token_id = 0

    def __init__(self, end: int) -> None:
        self.eos_token_id = end


def test_rows_leave_the_batch_and_samples_share_a_prompt(pair: Pair) -> None:
    backbone, stock = pair
    prompts, rows = soft_prompts([3]), random_ids(6, 3, 4, 1)
    backbone.model.generation_config.eos_token_id = None
    with torch.no_grad():
        prefix = stage_prefix(backbone, [0], prompts)
        ids, mask = pad(rows, "left")
        free = generate(backbone, Ending(-1), ids, mask, prefix, 6)
        for row, tokens in zip(rows, free, strict=True):
            text = row
            for token in tokens:
                assert int(grown_logits(stock, text, [0], prompts)[-1].argmax()) == token
                text = torch.cat([text, torch.tensor([token])])
        end = free[1][1]
        cut = [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in free]
        assert generate(backbone, Ending(end), ids, mask, prefix, 6) == cut
        samples = generate(backbone, Ending(-1), ids, mask, prefix, 6, num_samples=2)
    assert samples == [tokens for tokens in free for _ in range(2)]


@pytest.mark.parametrize("mode", ["accumulate", "replace"])
def test_one_prefix_an_example_with_a_dropped_token(pair: Pair, mode: str) -> None:
    backbone, stock = pair
    rows, dropped = random_ids(6, 2, 4), torch.tensor([1, -1, 4])
    prompts = soft_prompts([2, 3])
    batch = [prompt.detach().expand(3, -1, -1) for prompt in prompts]
    with torch.no_grad():
        prefix = stage_prefix(backbone, [0, 2], batch, mode, dropped=dropped)
        ids, mask = pad(rows, "right")
        labels = torch.where(mask.bool(), ids, -100)
        _, losses = backbone.loss(ids, labels, prefix)
        logits = cached_logits(backbone, rows, prefix, ids.new_zeros(3, 0))
        for row, token, loss, last in zip(rows, dropped.tolist(), losses, logits, strict=True):
            expected = grown_logits(stock, row, [0, 2], prompts, mode, dropped=[token])
            assert differs(loss, cross_entropy(expected[:-1], row[1:], reduction="sum")) < 1e-9
            assert differs(last[0], expected[-1]) < 1e-9


def test_leading_tokens_and_layers_that_see_no_prompt(pair: Pair) -> None:
    backbone, stock = pair
    (prompt,), (content,) = soft_prompts([4]), random_ids(5)
    bos = torch.tensor([7])
    lead = backbone.model.get_input_embeddings()(bos)
    with torch.no_grad():
        prefix = stage_prefix(backbone, [0], [prompt], leading=bos)
        expected = grown_logits(stock, content, [0], [torch.cat([lead, prompt])])
        assert differs(backbone(content[None], prefix)[0], expected) < 1e-9
        # Content that sees the leading token alone, at positions behind the prompt's.
        alone = grown_logits(stock, content, [0], [torch.cat([lead, prompt])], dropped=range(1, 5))
        assert differs(backbone(content[None], prefix.visible(0, 0))[0], alone) < 1e-9
        unseen = stage_prefix(backbone, [0], [prompt]).visible(0, 0)
        assert all(entry is None for entry in unseen.layers)


@pytest.mark.parametrize("family", HYBRIDS)
def test_gradient_checkpointing_changes_nothing(family: str) -> None:
    results = []
    for checkpointing in (False, True):
        backbone = hybrid_backbone(family, torch.float32, gradient_checkpointing=checkpointing)
        prompts = soft_prompts([2, 3])
        batch, mask = pad(random_ids(*LENGTHS), "right")
        labels = torch.where(mask.bool(), batch, -100)
        total, _ = backbone.loss(batch, labels, stage_prefix(backbone, [0, 1], prompts))
        results.append([total.detach(), *torch.autograd.grad(total, prompts)])
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


def test_splitting_and_padding_a_batch_change_nothing(pair: Pair) -> None:
    backbone, rows = pair.backbone, random_ids(7, 2, 5, 3)
    with torch.no_grad():
        prefix = stage_prefix(backbone, [0, 1], soft_prompts([2, 3]))
        batch, mask = pad(rows, "right")
        labels = torch.where(mask.bool(), batch, -100)
        _, together = backbone.loss(batch, labels, prefix)
        wide = torch.nn.functional.pad(batch, (0, 4), value=9)
        _, padded = backbone.loss(wide, torch.nn.functional.pad(labels, (0, 4), value=-100), prefix)
        alone = [backbone.loss(batch[i : i + 1], labels[i : i + 1], prefix)[1][0] for i in range(len(rows))]
    assert differs(together, padded) < 1e-12
    assert differs(together, torch.stack(alone)) < 1e-12


def test_recurrent_states_keep_their_own_dtype() -> None:
    backbone = hybrid_backbone("qwen3_5_text", torch.bfloat16)
    prefix = stage_prefix(backbone, [0], soft_prompts([3]))
    states = [entry.mixer for entry in prefix.layers if entry is not None and entry.mixer is not None]
    assert {state[-1].dtype for state in states} == {torch.float32}

"""A prompt that only some layers see: a layer loop written out, and all that reads the prompt."""

from typing import Any

import pytest
import torch
from torch import Tensor

from promptstage.datamodules.encoding import Tokens
from promptstage.lightning_modules.backbone.generation import generate, generate_rows
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Limits, Row
from promptstage.lightning_modules.backbone.trace import GenerationTrace
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.corruption import Corruption, corrupted_prefix, locate
from promptstage.lightning_modules.decoding.trigger import measure_trigger, measure_trigger_anew
from promptstage.lightning_modules.diagnosis import diagnose
from promptstage.utilities.errors import UserError
from scripts.slow_attention import SLOW, register_slow
from tests.unit.backbone.reference import SlowModel, causal
from tests.unit.backbone.tiny import method, moved, pad, random_ids, random_model, tiny_backbone

SOFT = ("prompt", "prompt-mlp", "late", "prefix", "prefix-mlp", "dham", "dham-replace")
RANGES = pytest.mark.parametrize(("start", "end"), [(0, 3), (1, None), (2, 3), (3, 4)])


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return tiny_backbone()


def starts_and_prompts(module: Any) -> tuple[list[int], list[Tensor]]:
    if hasattr(module, "stages"):
        return list(module.stages.starts), list(module.prompts)
    return [module.insert_at], [module.trained_prompt()]


def slow_visible_logits(module: Any, ids: Tensor, start: int, end: int | None) -> Tensor:
    """Logits of one row (1, n) behind prompts, whose rows stay in the sequence in every layer.

    In a layer that shall not see them, content's rows of the mask are closed for the virtual columns.
    """
    register_slow()
    slow = SlowModel(random_model("llama", SLOW))
    starts, prompts = starts_and_prompts(module)
    total, n = sum(map(len, prompts)), ids.shape[1]
    lead = [] if not module.bos_first else [slow.model.get_input_embeddings()(torch.tensor([[0]]))]
    hidden = slow.model.get_input_embeddings()(ids)
    for layer, block in enumerate(slow.blocks):
        for stage, at in enumerate(starts):
            if at == layer:
                before = hidden.shape[1] - n
                hidden = torch.cat([hidden[:, :before], prompts[stage][None], hidden[:, before:]], dim=1)
        if layer == 0 and lead:
            hidden = torch.cat([lead[0], hidden], dim=1)
        before, first = hidden.shape[1] - n, total + len(lead)
        positions = torch.cat([torch.arange(before), first + torch.arange(n)])[None]
        mask = causal(torch.ones(1, before + n, dtype=torch.bool), hidden.dtype)
        if not start <= layer < (len(slow.blocks) if end is None else end):
            mask[:, :, before:, len(lead) : before] = float("-inf")
        angles = slow.body.rotary_emb(hidden, positions)
        hidden = block(hidden, attention_mask=mask, position_ids=positions, position_embeddings=angles)
    return slow.leave(hidden[:, -n:])


@RANGES
@pytest.mark.parametrize("bos_first", [False, True])
@pytest.mark.parametrize("name", ["prompt", "late", "dham"])
def test_only_these_layers_see_the_prompt(
    llama: Backbone, name: str, bos_first: bool, start: int, end: int | None
) -> None:
    llama.tokenizer.bos_token_id = 0
    module = moved(name, llama, bos_first=bos_first, visible_from=start, visible_until=end)
    (row,) = random_ids(7)
    with torch.no_grad():
        expected = slow_visible_logits(module, row[None], start, end)
        assert (llama(row[None], module.prefix()) - expected).abs().max() < 1e-9
        if (name, start) != ("late", 1):  # it starts at layer 2
            everywhere = moved(name, llama, bos_first=bos_first)
            assert (llama(row[None], everywhere.prefix()) - expected).abs().max() > 1e-3


@RANGES
@pytest.mark.parametrize("name", SOFT)
def test_the_other_layers_keep_positions_and_nothing_else(
    llama: Backbone, name: str, start: int, end: int | None
) -> None:
    hidden = moved(name, llama, visible_from=start, visible_until=end).prefix()
    whole = moved(name, llama).prefix()
    assert hidden is not None
    assert whole is not None
    assert hidden.num_positions == whole.num_positions
    for layer, (ours, theirs) in enumerate(zip(hidden.layers, whole.layers, strict=True)):
        if not start <= layer < (4 if end is None else end) or theirs is None:
            assert ours is None
        else:
            assert ours is not None
            assert all(torch.equal(a, b) for a, b in zip(ours.tensors(), theirs.tensors(), strict=True))


@pytest.mark.parametrize("name", SOFT)
def test_all_layers_by_number_is_the_default(llama: Backbone, name: str) -> None:
    (row,) = random_ids(7)
    default, numbered = (moved(name, llama, **more) for more in ({}, {"visible_from": 0, "visible_until": 4}))
    with torch.no_grad():
        assert torch.equal(llama(row[None], default.prefix()), llama(row[None], numbered.prefix()))


@pytest.mark.parametrize("name", ["prompt", "dham", "prefix"])
def test_cached_generation_equals_generation_without_cache(llama: Backbone, name: str) -> None:
    module = moved(name, llama, visible_from=1, visible_until=3)
    prefix = module.prefix()
    ids, mask = pad(random_ids(6, 4), "left")
    with torch.no_grad():
        outputs = generate(llama, llama.tokenizer, ids, mask, prefix, 3)
        for row, output in zip(random_ids(6, 4), outputs, strict=True):
            for token in output:
                assert int(llama(row[None], prefix)[0, -1].argmax()) == token
                row = torch.cat([row, torch.tensor([token])])


def generated(backbone: Backbone, prefix: Prefix) -> tuple[GenerationTrace, list[Row], Tokens]:
    rows = random_ids(9, 4, 6)
    ids, mask = pad(rows, "left")
    trace = GenerationTrace(backbone)
    outputs = generate_rows(backbone, backbone.tokenizer, ids, mask, prefix, Limits(8), trace=trace)
    whole = [torch.cat([row, torch.tensor(new.tokens)]) for row, new in zip(rows, outputs, strict=True)]
    joined, real = pad(whole, "right")
    starts = torch.tensor([len(row) for row in rows])
    ends = torch.tensor([len(row) for row in whole])
    columns = torch.arange(joined.shape[1])
    inside = (columns >= starts[:, None]) & (columns < ends[:, None])
    question = torch.stack([torch.ones_like(starts), starts], dim=1)
    rationale = torch.stack([starts, ends], dim=1)
    return trace, outputs, Tokens(joined, real, joined.where(inside, -100), question, rationale)


@pytest.mark.parametrize("name", ["prompt", "dham", "prefix"])
def test_the_trigger_of_a_pass_is_the_traces(llama: Backbone, name: str) -> None:
    """By the last layer that sees the prompt; where that is the last layer, both ways are the same."""
    with torch.no_grad():
        prefix = moved(name, llama).prefix()
    assert prefix is not None
    trace, outputs, tokens = generated(llama, prefix)
    texts = [row.tokens for row in outputs]
    expected = measure_trigger(trace, outputs, prefix, "mean")
    found = measure_trigger_anew(llama, tokens, prefix, texts, "mean")
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", SOFT)
def test_measures_of_hidden_layers_are_not_numbers(llama: Backbone, name: str) -> None:
    module = moved(name, llama, visible_from=1, visible_until=3)
    with torch.no_grad():
        prefix = module.prefix()
    assert prefix is not None
    _, outputs, tokens = generated(llama, prefix)
    texts = [row.tokens for row in outputs]
    found = diagnose(llama, tokens, prefix, range(4), ["a", "b", "c"])
    assert found.saliency.shape == (3, 4, 2, sum(prefix.stages))
    assert found.saliency[:, [0, 3]].isnan().all()
    seen = [layer for layer in (1, 2) if prefix.virtual(layer)]
    assert not found.saliency[:, seen].isnan().all(-1).any()
    assert found.late.isfinite().all()
    alone = diagnose(llama, tokens, prefix, range(3), ["a", "b", "c"])
    assert torch.allclose(found.late, alone.late)

    layers = Corruption().layers(prefix)
    assert set(layers) <= set(seen)
    located = locate(llama, tokens, prefix, layers, None)
    assert bool((located.token >= 0).all())
    assert set(located.layer.tolist()) <= set(layers)
    assert measure_trigger_anew(llama, tokens, prefix, texts, "mean").ratio.isfinite().any()
    own = corrupted_prefix(module, located.token, Corruption())
    assert [entry is None for entry in own.layers] == [entry is None for entry in prefix.layers]


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("prompt", {"visible_from": -1}, "visible_from must be >= 0"),
        ("prompt", {"visible_from": 2, "visible_until": 2}, r"visible_until must be > 2 \(visible_from\)"),
        ("prefix", {"visible_until": 0}, "visible_until must be > 0"),
        ("dham", {"visible_until": 5}, "visible_until must be <= 4: backbone 'tiny' has 4 layers, got 5"),
        ("prefix", {"visible_from": 4}, "visible_from must be <= 3"),
        ("late", {"visible_until": 2}, "no layer from 0 to 1 attends to the prompt"),
    ],
    ids=str,
)
def test_a_prompt_that_nothing_sees_is_refused(
    llama: Backbone, name: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=rf"^[^\n]*{words}[^\n]*$"):
        method(name, llama, **changes)


def test_gradients_reach_a_prompt_through_the_layers_that_see_it(llama: Backbone) -> None:
    module: SoftPromptModule = moved("prompt", llama, visible_from=3)
    ids = torch.arange(8)[None]
    loss, _ = llama.loss(ids, ids, module.prefix())
    (gradient,) = torch.autograd.grad(loss, module.trained_parameters())
    (prompt,) = module.trained_parameters()
    step, direction = 1e-6, torch.randn(prompt.shape, generator=torch.Generator().manual_seed(0)).double()
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            prompt.add_(sign * step * direction)
            losses.append(float(llama.loss(ids, ids, module.prefix())[0]))
            prompt.sub_(sign * step * direction)
    expected = (losses[0] - losses[1]) / (2 * step)
    assert abs(float((gradient * direction).sum()) - expected) < 1e-6 * max(1, abs(expected))

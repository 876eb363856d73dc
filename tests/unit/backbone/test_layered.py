"""Families that share keys and values, cache latents or have per-layer embeddings, against one long text."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.attention_calibration import AttentionCalibration, CalibratedHeads
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.layer_states import pooled_outputs
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.observation import attention_terms
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from promptstage.lightning_modules.decoding.corruption import Corruption, corrupted_prefix
from promptstage.lightning_modules.functional.saliency import saliency
from promptstage.utilities.errors import UserError
from scripts.late_prompts import Layered
from scripts.slow_attention import SLOW, register_slow
from tests.unit.backbone.test_generation import Ending, common_token, ended, quickly, slowly
from tests.unit.backbone.test_trace import compare
from tests.unit.backbone.tiny import (
    LAYERS,
    METHODS,
    OTHER_FAMILIES,
    WIDTH,
    method,
    moved,
    pad,
    random_ids,
    random_model,
    tiny_backbone,
)

# Some operations of these families are in float32 whatever the model's dtype.
TOLERANCE = 1e-5
FAMILIES = ("llama", "gpt_oss", "gemma2", *OTHER_FAMILIES)
OWNERS = {"gemma3n": [0, 1, 0, 1], "gemma4": [0, 1, 0, 1]}
STAGES = {
    "prompt": ((0,), "accumulate"),
    "late": ((1,), "accumulate"),
    "accumulate": ((0, 1), "accumulate"),
    "replace": ((0, 1), "replace"),
}
LENGTHS = (7, 2, 5, 9, 4)


def layered(family: str) -> Layered:
    """The reference for a family."""
    register_slow()
    return Layered(random_model(family, SLOW))


def draw_prompts(count: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [
        torch.randn(3 + i, WIDTH, generator=draw, dtype=torch.float64).requires_grad_() for i in range(count)
    ]


def deviations(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.std())


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_reuse_keys_and_values(family: str) -> None:
    assert layered(family).owners == OWNERS.get(family, [*range(LAYERS)])


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_losses_gradients_and_saliency(family: str, stages: str) -> None:
    starts, mode = STAGES[stages]
    backbone, slow = tiny_backbone(family), layered(family)
    prompts, rows = draw_prompts(len(starts)), random_ids(*LENGTHS)
    prefix = stage_prefix(backbone, starts, prompts, mode)  # type: ignore[arg-type]
    ids, mask = pad(rows, "right")
    labels = torch.where(mask.bool(), ids, -100)
    terms, _ = attention_terms(backbone, ids, labels, range(LAYERS), prefix)
    total, each = backbone.loss(ids, labels, prefix)
    expected_total = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(rows):
        weights: dict[int, list[Tensor]] = {}
        expected = slow.logits(row, starts, prompts, mode, weights)
        with torch.no_grad():
            assert deviations(backbone(row[None], prefix.detach())[0], expected) < TOLERANCE
        loss = cross_entropy(expected[:-1], row[1:], reduction="sum")
        assert abs(float(each[i].detach() - loss.detach())) < TOLERANCE * len(row)
        expected_total = expected_total + loss
        loss.backward(retain_graph=True)
        for layer, heads in weights.items():
            flows = sum(head.detach() * head.grad for head in heads if head.grad is not None)
            assert isinstance(flows, Tensor)
            flow = flows[0, -len(row) :].abs()
            columns = [*_columns(prefix, layer, starts, prompts, mode), *range(-len(row), 0)]
            own = saliency(terms[layer])[i, : len(row), : len(columns)]
            assert (own - flow[:, columns]).abs().max() < TOLERANCE * max(float(flow.max()), 1e-3)
    gradients = torch.autograd.grad(expected_total, prompts)
    for actual, gradient in zip(torch.autograd.grad(total, prompts), gradients, strict=True):
        assert float(gradient.std()) > 1e-4
        assert deviations(actual, gradient) < TOLERANCE


def _columns(prefix: Any, layer: int, starts: tuple[int, ...], prompts: list[Tensor], mode: str) -> range:
    """Places in the long text of the virtual tokens that a layer sees."""
    first = prefix.columns(layer)
    return range(first[0], first[-1] + 1) if first else range(0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_cached_generation(family: str, name: str) -> None:
    changes = {"prompt": {}, "late": {"insert_at": 1}, "dham": {"partition": [0, 1]}}.get(name, {})
    if name == "dham-replace":
        changes = {"partition": [0, 1]}
    backbone = tiny_backbone(family)
    prefix = moved(name, backbone, **changes).prefix()
    rows = random_ids(*LENGTHS)
    free = slowly(backbone, rows, [prefix] * len(rows), 8)
    assert quickly(backbone, Ending(-1), rows, prefix, 8) == free
    tokenizer = Ending(common_token(free))
    expected = ended(free, tokenizer)
    assert len({len(output) for output in expected}) > 1
    assert quickly(backbone, tokenizer, rows, prefix, 8) == expected


@pytest.mark.parametrize("name", ["prompt", "prefix"])
@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_prompt_that_only_some_layers_see(family: str, name: str) -> None:
    """Also in generation, where layers that reuse keys and values get those of a layer that sees it."""
    backbone = tiny_backbone(family)
    rows = random_ids(*LENGTHS)
    outputs = []
    for start, end in ((0, 2), (2, 4), (1, 3)):
        prefix = moved(name, backbone, visible_from=start, visible_until=end).prefix()
        outputs.append(slowly(backbone, rows, [prefix] * len(rows), 8))
        assert quickly(backbone, Ending(-1), rows, prefix, 8) == outputs[-1]
    assert outputs[0] != outputs[1]


@pytest.mark.parametrize("name", ["prefix", "prefix-mlp"])
@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_prefix_tuning(family: str, name: str) -> None:
    """Starts as prompt tuning with the same tokens; is exported, loaded and corrupted tensor by tensor."""
    backbone = tiny_backbone(family)
    module = method(name, backbone).to(torch.float64)
    rows = module.embedding if name == "prefix-mlp" else None
    (row,) = random_ids(6)
    if rows is not None:
        real = method(name, backbone, init=_vocabulary()).to(torch.float64)
        with torch.no_grad():
            as_prompt = stage_prefix(backbone, [0], [real.embedding])
            behind = backbone(row[None], real.prefix())
            assert deviations(behind, backbone(row[None], as_prompt)) < TOLERANCE
    total, _ = backbone.loss(row[None], row[None], module.prefix())
    total.backward()
    for parameter in module.trained_parameters():
        assert parameter.grad is not None
    changed = moved(name, backbone)
    direct = moved("prefix", backbone, seed=9)
    direct.load_state_dict(changed.exported())
    with torch.no_grad():
        assert torch.equal(backbone(row[None], direct.prefix()), backbone(row[None], changed.prefix()))
    tokens = torch.tensor([1, -1])
    prefix = corrupted_prefix(direct, tokens, Corruption(gamma=25.0))
    for layer in range(LAYERS):
        entry = prefix.layers[layer]
        for part in () if entry is None else entry.tensors():
            assert part.isfinite().all()
            assert not part[0, :, 1].any()
            zeros = (part[1] == 0).float().mean()
            assert abs(float(zeros) - 0.25) < 0.02


def _vocabulary() -> Any:
    from promptstage.lightning_modules.initialization import PromptInit

    return PromptInit("vocabulary")


@pytest.mark.parametrize("name", ["prompt", "dham", "prefix"])
@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_trace_equals_a_full_pass(family: str, name: str) -> None:
    backbone = tiny_backbone(family)
    changes = {"partition": [0, 1]} if name == "dham" else {}
    with torch.no_grad():
        prefix = moved(name, backbone, **changes).prefix()
    assert prefix is not None
    assert compare(backbone, prefix) < 1e-6


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_features_are_the_active_stream(family: str) -> None:
    backbone, slow = tiny_backbone(family), layered(family)
    rows = random_ids(*LENGTHS)
    ids, mask = pad(rows, "right")
    features, _ = pooled_outputs(backbone, ids, mask.sum(1))
    assert features.shape == (LAYERS, len(rows), WIDTH)
    for i, row in enumerate(rows):
        outputs: list[Tensor] = []
        handles = [
            block.register_forward_hook(lambda module, args, output, into=outputs: into.append(output))
            for block in slow.body.layers
        ]
        with torch.no_grad():
            slow.logits(row, (), ())
        for handle in handles:
            handle.remove()
        for layer, output in enumerate(outputs):
            states = output[slow.active] if output.ndim == 4 else output
            assert deviations(features[layer, i], states[0, 1:].mean(0)) < TOLERANCE


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_attention_calibration_sees_all_rows(family: str) -> None:
    """Layers that skip rows of the prompt without hooks compute them with hooks."""
    backbone = tiny_backbone(family)
    rows = random_ids(*LENGTHS)
    ids, mask = pad(rows, "left", filler=11)
    own = AttentionCalibration({layer: [0, 2] for layer in range(LAYERS)}, threshold=0.12)

    def answers(ids: Tensor, mask: Tensor) -> list[list[int]]:
        with backbone.hooked(CalibratedHeads(own)):
            return generate(backbone, Ending(-1), ids, mask, None, 8)

    together = answers(ids, mask)
    alone = [answers(row[None], torch.ones_like(row)[None])[0] for row in rows]
    assert together == alone
    assert together != generate(backbone, Ending(-1), ids, mask, None, 8)


@pytest.mark.parametrize("family", ["gemma3n", "gemma4"])
def test_prompt_must_start_before_keys_and_values_are_reused(family: str) -> None:
    backbone = tiny_backbone(family)
    assert backbone.last_state_layer == 1
    with pytest.raises(
        UserError, match="insert_at must be <= 1, since later layers of backbone 'tiny' have no"
    ):
        method("late", backbone, insert_at=2)
    with pytest.raises(UserError, match="the first layer of a stage must be <= 1"):
        method("dham", backbone, partition=[0, 3])


@pytest.mark.parametrize("family", ["gemma3n", "gemma4"])
def test_bos_has_its_own_per_layer_embedding(family: str) -> None:
    backbone: Backbone = tiny_backbone(family)
    backbone.tokenizer.bos_token_id = 7  # type: ignore[misc]  # a tokenizer of the tests
    slow = layered(family)
    module = method("prompt", backbone, bos_first=True)
    (row,) = random_ids(6)
    bos = slow.model.get_input_embeddings()(torch.tensor([7])).detach()
    lookup = slow.body.get_per_layer_inputs
    with torch.no_grad():
        prompts = [bos, *module.trained_parameters()]
        slow.body.get_per_layer_inputs = lambda ids: lookup(torch.cat([ids.new_tensor([[7]]), ids[:, 1:]], 1))
        expected = slow.logits(row, (0, 0), prompts)
        assert deviations(backbone(row[None], module.prefix())[0], expected) < TOLERANCE

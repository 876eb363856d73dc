"""Every prefix equals the literal reference, in logits and in gradients, to 1e-9 in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import LayerState, Prefix
from promptstage.lightning_modules.backbone.virtual_tokens import stage_prefix
from scripts.slow_attention import SLOW, register_slow
from tests.unit.backbone.reference import slow_logits
from tests.unit.backbone.tiny import METHODS, WIDTH, moved, pad, random_ids, random_model, tiny_backbone

# First layers of the stages and their prompts' lengths.
STAGES = {
    "prompt": ([0], [4]),
    "late": ([2], [3]),
    "last-layer": ([3], [3]),
    "two-from-0": ([0, 2], [2, 4]),
    "two-late": ([1, 3], [4, 2]),
    "three-from-0": ([0, 1, 3], [2, 4, 1]),
    "three-late": ([1, 2, 3], [3, 1, 4]),
}


def soft_prompts(lengths: list[int]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(7)
    rows = [torch.randn(length, WIDTH, generator=draw, dtype=torch.float64) for length in lengths]
    return [row.requires_grad_() for row in rows]


def batch_and_labels() -> tuple[Tensor, Tensor, Tensor]:
    """Right padded: ids, mask, labels on the latter half of each row."""
    ids, mask = pad(random_ids(9, 5, 7), "right")
    columns = torch.arange(ids.shape[1])
    labels = torch.where(mask.bool() & (columns >= 3), ids, -100)
    return ids, mask, labels


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def assert_agrees(
    backbone: Backbone, prefix: Prefix | None, logits: Tensor, ours: list[Tensor], theirs: list[Tensor]
) -> None:
    """``prefix`` gives the reference's ``logits`` and gradients."""
    ids, mask, labels = batch_and_labels()
    content = mask.bool()
    assert (backbone(ids, prefix)[content] - logits[content]).abs().max() < 1e-9
    loss, per_example = backbone.loss(ids, labels, prefix)
    expected = summed_loss(logits, labels)
    assert abs(loss - expected) < 1e-9
    assert abs(per_example.sum() - expected) < 1e-9
    if not ours:
        return
    gradients = torch.autograd.grad(loss, ours)
    references = torch.autograd.grad(expected, theirs)
    assert min(float(gradient.abs().max()) for gradient in references) > 1e-4
    assert largest_difference(list(gradients), list(references)) < 1e-9


@pytest.mark.parametrize("mode", ["accumulate", "replace"])
@pytest.mark.parametrize("stages", STAGES)
def test_stage_prompts(tiny: Backbone, family: str, stages: str, mode: str) -> None:
    register_slow()
    starts, lengths = STAGES[stages]
    prompts = soft_prompts(lengths)
    ids, mask, _ = batch_and_labels()
    logits = slow_logits(random_model(family, SLOW), ids, mask, starts, prompts, mode)
    prefix = stage_prefix(tiny, starts, prompts, mode)
    assert_agrees(tiny, prefix, logits, prompts, prompts)


@pytest.mark.parametrize("mode", ["accumulate", "replace"])
def test_length_of_each_layers_prefix(llama: Backbone, mode: str) -> None:
    prefix = stage_prefix(llama, [1, 3], soft_prompts([4, 2]), mode)
    assert [prefix.length(layer) for layer in range(4)] == [0, 4, 4, 6 if mode == "accumulate" else 2]
    assert prefix.num_positions == (6 if mode == "accumulate" else 4)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "lora"])
def test_methods(tiny: Backbone, family: str, name: str) -> None:
    """What a method trains, handed to the reference, gives the method's own loss and gradients."""
    register_slow()
    module = moved(name, tiny)
    ids, mask, _ = batch_and_labels()
    model = random_model(family, SLOW)
    prompts = module.trained_parameters()
    if name.startswith("prefix"):
        trained = module.trained_keys_values()
        given = {i // 2: (trained[i], trained[i + 1]) for i in range(0, len(trained), 2)}
        logits = slow_logits(model, ids, mask, given=given)
    elif name.startswith("dham"):
        logits = slow_logits(model, ids, mask, list(module.stages.starts), prompts, module.mode)
    else:
        rows = [part[:, 0] for part in module.vectors()]
        logits = slow_logits(model, ids, mask, [getattr(module, "insert_at", 0)][: len(rows)], rows)
    assert_agrees(tiny, module.prefix(), logits, prompts, prompts)


def test_replace_with_interleaved_stages(llama: Backbone) -> None:
    """A layer takes its own stage's prompt, also when another stage began in between."""
    prompts, owners = soft_prompts([2, 3]), (0, 1, 0, 1)
    prefix = stage_prefix(llama, [0, 1], prompts, "replace", owners)
    alone = [stage_prefix(llama, [start], [prompt]) for start, prompt in zip([0, 1], prompts, strict=True)]
    for layer, owner in enumerate(owners):
        ours, theirs = prefix.layers[layer], alone[owner].layers[layer]
        assert ours is not None
        assert theirs is not None
        assert largest_difference(ours.tensors(), theirs.tensors()) < 1e-12
    assert prefix.num_positions == 3


@pytest.mark.parametrize(
    ("options", "scale", "matrices"),
    [
        ({}, 1, 7),
        ({"target_modules": None, "alpha": 16}, 8, 2),
        ({"target_modules": ["gate_proj"], "rank": 4, "alpha": 3, "rank_stabilized": True}, 3 / 2, 1),
    ],
)
def test_lora_is_a_weight_update(
    llama: Backbone, options: dict[str, Any], scale: float, matrices: int
) -> None:
    """W + scale B A in the reference's weights gives the logits of LoRA."""
    register_slow()
    module = moved("lora", llama, **options)
    ids, mask, _ = batch_and_labels()
    model = random_model("llama", SLOW)
    updated = 0
    with torch.no_grad():
        for name, layer in module.backbone.model.named_modules():
            if hasattr(layer, "lora_A"):
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                model.get_submodule(name).weight += scale * b @ a
                updated += 1
        logits = slow_logits(model, ids, mask)
    assert updated == matrices * llama.num_layers
    assert (llama(ids)[mask.bool()] - logits[mask.bool()]).abs().max() < 1e-9


def test_layers_without_attention_and_with_shared_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer 0 has a mixer alone, layer 2 the keys of layer 1 and a mixer, layer 3 the same keys."""
    backbone = tiny_backbone()
    keys, values = torch.randn(2, 1, 2, 5, 8)
    mixer = (torch.randn(1, 3),)
    states = [LayerState(mixer=mixer), *(LayerState(keys, values, part) for part in (None, mixer, None))]
    monkeypatch.setattr(backbone, "record_states", lambda *_: states)
    prompts = soft_prompts([3, 2])
    prefix = stage_prefix(backbone, [0, 2], prompts)
    layers = [entry or LayerState() for entry in prefix.layers]
    assert [entry.length for entry in layers] == [0, 3, 3, 3]  # the second prompt enters behind layer 1
    assert [entry.mixer is not None for entry in layers] == [True, False, True, False]
    assert all(entry.keys is layers[1].keys and entry.values is layers[1].values for entry in layers[2:])
    late = [entry or LayerState() for entry in stage_prefix(backbone, [2], prompts[:1]).layers]
    assert [entry.length for entry in late] == [0, 0, 0, 0]
    assert [entry.mixer is not None for entry in late] == [False, False, True, False]

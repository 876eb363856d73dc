"""DHAM's gates: one scalar a stage, times the values of its virtual tokens."""

from typing import Any

import pytest
import torch

from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.decoding.corruption import Corruption, corrupted_prefix
from tests.unit.backbone.tiny import method, moved, pad, random_ids, tiny_backbone

MODES = pytest.mark.parametrize("name", ["dham", "dham-replace"])


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return tiny_backbone()


def gated(name: str, backbone: Backbone, *gates: float, **changes: Any) -> Any:
    """A moved DHAM without gates, given these."""
    plain = moved(name, backbone, **changes)
    module = method(name, backbone, gate=True, **changes).to(torch.float64)
    module.load_state_dict(plain.state_dict() | {"gates": torch.tensor(gates, dtype=torch.float64)})
    return module


@MODES
def test_gates_of_one_change_nothing(llama: Backbone, name: str) -> None:
    (row,) = random_ids(7)
    stages = len(moved(name, llama).prompts)
    module = gated(name, llama, *[1.0] * stages)
    assert torch.equal(method(name, llama, gate=True).gates, torch.ones(stages))
    with torch.no_grad():
        assert torch.equal(llama(row[None], module.prefix()), llama(row[None], moved(name, llama).prefix()))


@MODES
@pytest.mark.parametrize("bos_first", [False, True])
def test_each_stages_values_are_scaled_in_every_layer(llama: Backbone, name: str, bos_first: bool) -> None:
    llama.tokenizer.bos_token_id = 0
    gates = [0.0, -2.0, 0.5][: len(moved(name, llama).prompts)]
    module, plain = gated(name, llama, *gates, bos_first=bos_first), moved(name, llama, bos_first=bos_first)
    lead = 1 if bos_first else 0
    lengths = [len(prompt) for prompt in plain.prompts]
    with torch.no_grad():
        ours, theirs = module.prefix(), plain.prefix()
    for layer in range(4):
        keys, values = ours.layers[layer].tensors()
        assert torch.equal(keys, theirs.layers[layer][0])
        if name == "dham":  # stages at layers 0, 1 and 3
            own = [0, *([1] if layer >= 1 else []), *([2] if layer >= 3 else [])]
        else:  # stages at layers 0 and 3
            own = [1 if layer == 3 else 0]
        scale = torch.tensor([1.0] * lead + [gates[stage] for stage in own for _ in range(lengths[stage])])
        assert torch.equal(values, theirs.layers[layer][1] * scale.double()[:, None])


@MODES
def test_the_gradient_of_a_gate_is_the_losss_slope(llama: Backbone, name: str) -> None:
    module = gated(name, llama, *[0.7, 1.3, 0.2][: len(moved(name, llama).prompts)])
    ids = torch.arange(9)[None]
    loss, _ = llama.loss(ids, ids, module.prefix())
    (gradient,) = torch.autograd.grad(loss, module.gates)
    step = 1e-6
    for stage in range(len(gradient)):
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                module.gates[stage] += sign * step
                losses.append(float(llama.loss(ids, ids, module.prefix())[0]))
                module.gates[stage] -= sign * step
        slope = (losses[0] - losses[1]) / (2 * step)
        assert abs(slope) > 1e-4
        assert abs(float(gradient[stage]) - slope) < 1e-6 * max(1, abs(slope))


@MODES
def test_generation_and_corruption_have_the_gates(llama: Backbone, name: str) -> None:
    module = gated(name, llama, *[0.3, 2.0, -1.0][: len(moved(name, llama).prompts)])
    with torch.no_grad():
        prefix = module.prefix()
    rows = random_ids(6, 4)
    ids, mask = pad(rows, "left")
    for row, output in zip(rows, generate(llama, llama.tokenizer, ids, mask, prefix, 2), strict=True):
        for token in output:
            with torch.no_grad():
                assert int(llama(row[None], prefix)[0, -1].argmax()) == token
            row = torch.cat([row, torch.tensor([token])])
    own = corrupted_prefix(module, torch.tensor([-1, -1]), Corruption(gamma=0))
    for ours, theirs in zip(own.layers, prefix.layers, strict=True):
        assert all(
            torch.allclose(a[1], b[0], atol=1e-12)
            for a, b in zip(ours.tensors(), theirs.tensors(), strict=True)
        )


def test_gates_are_trained_and_exported_with_the_prompts() -> None:
    backbone = tiny_backbone("llama", torch.float32)
    module = method("dham", backbone, gate=True)
    assert sorted(module.exported()) == ["gates", "prompts.0", "prompts.1", "prompts.2"]
    assert module.structure()["gate"] is True
    assert "gate" not in method("dham", backbone).structure()
    optimizer = torch.optim.AdamW(module.trained_parameters(), lr=1e-2)
    ids = torch.arange(8)[None]
    backbone.loss(ids, ids, module.prefix())[0].backward()
    optimizer.step()
    assert ((module.gates - 1).abs() > 5e-3).all()


def test_gates_keep_their_precision_over_a_bfloat16_backbone() -> None:
    """Factor 1 + 2^-9 is 1 in bfloat16; the product rounds after it, not before."""
    backbone = tiny_backbone("llama", torch.bfloat16)
    module = method("dham", backbone, gate=True)
    with torch.no_grad():
        before = module.prefix()
        module.gates += 3 * 2**-9
        after = module.prefix()
    assert after.layers[0][1].dtype == torch.bfloat16
    expected = (before.layers[0][1].float() * (1 + 3 * 2**-9)).bfloat16()
    assert torch.equal(after.layers[0][1], expected)

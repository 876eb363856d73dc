"""Pooled outputs of the decoder blocks equal those of each example alone, layer by layer."""

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.layer_states import pooled_outputs
from promptstage.lightning_modules.backbone.model import Backbone
from tests.unit.backbone.tiny import pad, random_ids, tiny_backbone

LENGTHS = (9, 2, 6)


def slow_outputs(backbone: Backbone, ids: Tensor) -> list[Tensor]:
    """Outputs (n, d) of the decoder blocks for one unpadded example (n,), kept whole."""
    found: list[Tensor] = []

    def keep(module: torch.nn.Module, args: tuple, output: Tensor | tuple) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0])

    handles = [layer.register_forward_hook(keep) for layer in backbone.layers]
    with torch.no_grad():
        backbone(ids[None])
    for handle in handles:
        handle.remove()
    return found


def test_means(tiny: Backbone) -> None:
    """The mean over all tokens but the first, of every family's blocks; padding is not seen."""
    rows = random_ids(*LENGTHS)
    ids, _ = pad(rows, "right")
    features, examples = pooled_outputs(tiny, ids, torch.tensor(LENGTHS))
    assert features.shape == (tiny.num_layers, len(LENGTHS), tiny.hidden_size)
    assert examples.tolist() == [0, 1, 2]
    for i, row in enumerate(rows):
        expected = torch.stack([states[1:].mean(0) for states in slow_outputs(tiny, torch.as_tensor(row))])
        assert (features[:, i] - expected).abs().max() < 1e-9


def test_tokens(tiny: Backbone) -> None:
    rows = random_ids(*LENGTHS)
    ids, _ = pad(rows, "right")
    features, examples = pooled_outputs(tiny, ids, torch.tensor(LENGTHS), tokens=True)
    assert examples.tolist() == [0] * 8 + [1] + [2] * 5
    for i, row in enumerate(rows):
        expected = torch.stack([states[1:] for states in slow_outputs(tiny, torch.as_tensor(row))])
        assert (features[:, examples == i] - expected).abs().max() < 1e-9


def test_what_comes_after_the_end_is_not_seen(llama: Backbone) -> None:
    ids, _ = pad(random_ids(*LENGTHS), "right")
    ends = torch.tensor([4, 2, 3])
    expected, _ = pooled_outputs(llama, ids, ends)
    ids[0, 4:], ids[2, 3:] = 5, 7
    features, _ = pooled_outputs(llama, ids, ends)
    assert torch.equal(features, expected)


def test_before_the_final_norm(llama: Backbone) -> None:
    """Blocks' outputs are the library's hidden states, but for the last, which those give normalised."""
    ids = torch.as_tensor(random_ids(7)[0])[None]
    features, _ = pooled_outputs(llama, ids, torch.tensor([7]), tokens=True)
    states = llama.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    for layer in range(llama.num_layers - 1):
        assert (features[layer] - states[layer + 1][0, 1:]).abs().max() < 1e-9
    assert (features[-1] - states[-1][0, 1:]).abs().max() > 1e-2
    assert (llama.model.model.norm(features[-1]) - states[-1][0, 1:]).abs().max() < 1e-9


def test_sums_are_float32_in_a_bfloat16_backbone() -> None:
    backbone = tiny_backbone("llama")
    backbone.model.to(torch.bfloat16)
    ids = torch.as_tensor(random_ids(40)[0])
    features, _ = pooled_outputs(backbone, ids[None], torch.tensor([40]))
    assert features.dtype == torch.float32
    exact = torch.stack([states[1:].double().mean(0) for states in slow_outputs(backbone, ids)])
    assert (features[:, 0] - exact).abs().max() < 1e-6


def test_nothing_is_left_behind(llama: Backbone) -> None:
    features, _ = pooled_outputs(llama, torch.as_tensor(random_ids(5)[0])[None], torch.tensor([5]))
    assert not features.requires_grad
    assert [len(layer._forward_hooks) for layer in llama.layers] == [0] * llama.num_layers


@pytest.mark.parametrize("ends", [[9, 2, 6], [3, 2, 2]])
def test_batches_change_nothing(llama: Backbone, ends: list[int]) -> None:
    rows = random_ids(*LENGTHS)
    ids, _ = pad(rows, "right")
    together, _ = pooled_outputs(llama, ids, torch.tensor(ends))
    for i, end in enumerate(ends):
        alone, _ = pooled_outputs(llama, torch.as_tensor(rows[i])[None], torch.tensor([end]))
        assert (together[:, i] - alone[:, 0]).abs().max() < 1e-12

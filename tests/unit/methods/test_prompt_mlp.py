"""A prompt trained through an MLP: it starts at the init, moves, and is exported without the MLP."""

import pytest
import torch

from promptstage.lightning_modules.backbone.model import Backbone
from tests.unit.backbone.tiny import losses_of_steps, method, moved, tiny_backbone

LAYERS = pytest.mark.parametrize("insert_at", [0, 2])


@LAYERS
def test_the_mlp_starts_at_the_init(llama: Backbone, insert_at: int) -> None:
    module, direct = (method("prompt", llama, insert_at=insert_at, mlp_width=width) for width in (8, 0))
    assert torch.equal(module.trained_prompt(), direct.prompt)
    assert torch.equal(module.prompt, direct.prompt)


@LAYERS
def test_the_loss_falls_through_the_mlp(insert_at: int) -> None:
    backbone = tiny_backbone("llama", torch.float32)
    module = method("prompt", backbone, insert_at=insert_at, mlp_width=8)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    losses = losses_of_steps(module)
    assert losses[-1] < losses[0]
    for name, value in module.state_dict().items():
        assert not torch.equal(value, start[name]), name


@LAYERS
def test_the_export_is_a_prompt_without_mlp(llama: Backbone, insert_at: int) -> None:
    module = moved("prompt", llama, insert_at=insert_at, mlp_width=8)
    exported = module.exported()
    assert list(exported) == ["prompt"]
    hidden = torch.tanh(module.prompt @ module.mlp_in.weight.T + module.mlp_in.bias)
    expected = module.prompt + hidden @ module.mlp_out.weight.T + module.mlp_out.bias
    assert (exported["prompt"] - expected).abs().max() < 1e-12
    assert (exported["prompt"] - module.prompt).abs().max() > 0.1

    direct = method("prompt", llama, insert_at=insert_at).to(torch.float64)
    direct.load_state_dict(exported)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(llama(ids, direct.prefix()), llama(ids, module.prefix()))

"""Prefix tuning's start, and its reparametrisation."""

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.initialization import PromptInit
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import Characters, losses_of_steps, method, moved, random_ids, tiny_backbone

THINK = PromptInit("text", "Think")


def keys_values_of_text(backbone: Backbone, text: str) -> list[Tensor]:
    """Keys and values in turn, from transformers' own cache after a plain forward."""
    from transformers import DynamicCache

    ids = torch.tensor([Characters()(text)["input_ids"]])
    cache = DynamicCache()
    with torch.no_grad():
        backbone.model(ids, use_cache=True, **{backbone.cache_argument: cache})
    return [part[0] for layer in cache.layers for part in (layer.keys, layer.values)]


@pytest.mark.parametrize("name", ["prefix", "prefix-mlp"])
def test_starts_from_real_keys_and_values(tiny: Backbone, name: str) -> None:
    module = method(name, tiny, init=THINK)
    expected = torch.stack(keys_values_of_text(tiny, "Think"))
    start = module.trained_keys_values()
    assert start.shape == expected.shape
    assert start.dtype == torch.float32
    assert (start - expected).abs().max() < 1e-6 * expected.abs().max()


def test_the_start_is_the_text_itself(tiny: Backbone) -> None:
    """Content behind the prefix has the logits it has behind the text."""
    module = method("prefix", tiny, init=THINK)
    (row,) = random_ids(6)
    text = torch.tensor(Characters()("Think")["input_ids"])
    with torch.no_grad():
        behind = tiny(row[None], module.prefix())
        plain = tiny(torch.cat([text, row])[None])[:, 5:]
    assert (behind - plain).abs().max() < 1e-5 * plain.abs().max()


def test_random_start_has_each_layers_scale(llama: Backbone) -> None:
    with torch.no_grad():
        llama.layers[2].self_attn.k_proj.weight.mul_(3)
    module = method("prefix", llama, init=PromptInit("random"), num_virtual_tokens=64)
    real = method("prefix", llama, init=PromptInit("vocabulary"), num_virtual_tokens=64)
    ours, theirs = (part.trained_keys_values().flatten(1).std(1) for part in (module, real))
    assert (ours / theirs - 1).abs().max() < 0.1
    assert theirs.max() > 1.5 * theirs.min()
    different = module.trained_keys_values() - real.trained_keys_values()
    assert different.abs().max() > 0.1


@pytest.mark.parametrize("kind", ["random", "text", "vocabulary", "hybrid"])
def test_mlp_starts_at_the_init_and_moves(kind: str) -> None:
    backbone = tiny_backbone("llama", torch.float32)
    init = PromptInit(kind, "Think")
    module, direct = (method(name, backbone, init=init) for name in ("prefix-mlp", "prefix"))
    start = module.trained_keys_values()
    assert torch.equal(start, direct.keys_values)
    losses = losses_of_steps(module)
    change = (module.trained_keys_values() - start).abs().flatten(1).amax(1)
    assert change.min() > 1e-4  # every layer's keys and values
    assert losses[-1] < losses[0]
    assert torch.equal(module.start, direct.keys_values)


@pytest.mark.parametrize("name", ["prefix", "prefix-mlp"])
def test_exported_is_what_is_used(llama: Backbone, name: str) -> None:
    """Without embedding and MLP; loaded as a direct prefix it gives the same logits."""
    module = moved(name, llama)
    exported = module.exported()
    assert list(exported) == ["keys_values"]
    assert not exported["keys_values"].requires_grad
    used = [part[0] for entry in module.prefix().layers for part in entry.tensors()]
    assert torch.equal(exported["keys_values"], torch.stack(used))

    direct = moved("prefix", llama, seed=9)
    direct.load_state_dict(exported)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(llama(ids, direct.prefix()), llama(ids, module.prefix()))


def test_positions_of_content_follow_the_prefix(llama: Backbone) -> None:
    assert method("prefix", llama).prefix().num_positions == 5


@pytest.mark.parametrize(
    "changes", [{"num_virtual_tokens": 0}, {"mlp_width": -1}], ids=lambda changes: next(iter(changes))
)
def test_impossible_sizes_are_refused(llama: Backbone, changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        method("prefix", llama, **changes)

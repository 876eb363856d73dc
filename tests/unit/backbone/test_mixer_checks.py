"""The check at load refuses each kind of wrong token mixer; methods on backbones with token mixers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from promptstage.lightning_modules.backbone import verification
from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.mixer_pass import MixerPass
from promptstage.lightning_modules.backbone.prefix import map_state
from promptstage.lightning_modules.backbone.token_mixers import TokenMixer
from promptstage.lightning_modules.lora import with_own_modules
from promptstage.utilities.errors import UserError
from tests.unit.backbone.hybrids import HYBRIDS, hybrid_backbone
from tests.unit.backbone.tiny import METHODS, method, moved, pad, random_ids

RUN, CALL, ROWS, RECORD = TokenMixer._run, TokenMixer._call, MixerPass.rows, FrozenModel.record_states
LORA = {"target_modules": ["q_proj", "v_proj", "in_proj", "in_proj_qkv"]}


def forgetting(self: Any, hidden: Tensor, state: Any, arguments: Any) -> Any:
    return RUN(self, hidden, None, arguments)


def detached(self: Any, hidden: Tensor, state: Any, arguments: Any) -> Any:
    output, after = CALL(self, hidden, state, arguments)
    return output, map_state(after, Tensor.detach)


def with_padding(self: Any, layer: int) -> Any:
    """Run over left padding; places of tokens that have not entered yet are on the right."""
    mask = self._active(layer)
    return None if mask is None or mask[:, -1].all() else ROWS(self, layer)


def with_places(
    self: Any,
    embeddings: Tensor,
    mask: Any = None,
    active: Any = None,
    tokens: Any = None,
    outputs: Any = None,
) -> Any:
    """Run over places of tokens that have not entered yet."""
    return RECORD(self, embeddings, mask, tokens=tokens, outputs=outputs)


WRONG: dict[str, tuple[type, str, Callable, str]] = {
    "no state": (TokenMixer, "_run", forgetting, "logits behind a prefix differ by"),
    "no gradient": (TokenMixer, "_call", detached, "the prompt's gradient differ by"),
    "padding": (MixerPass, "rows", with_padding, "logits of cached generation differ by"),
    "places": (FrozenModel, "record_states", with_places, "states behind prompts of two layers differ by"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("family", ["qwen3_5_text", "falcon_h1", "lfm2"])
def test_wrong_mixer_is_refused(family: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong, message = WRONG[name]
    monkeypatch.setattr(verification, "_passed", set())
    monkeypatch.setattr(owner, attribute, wrong)
    with pytest.raises(UserError, match=message):
        hybrid_backbone(family, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", HYBRIDS)
def test_half_precision_passes(family: str, dtype: torch.dtype) -> None:
    assert hybrid_backbone(family, dtype).mixers


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pretrained"])
@pytest.mark.parametrize("family", ["qwen3_5_text", "falcon_h1", "jamba"])
def test_every_method_trains_and_generates(family: str, name: str) -> None:
    """Each trained parameter has a gradient; a row's last logits do not depend on its batch."""
    from promptstage.lightning_modules.backbone.generation import generate

    backbone = hybrid_backbone(family, torch.float32)
    module = moved(name, backbone, **(LORA if name == "lora" else {}))
    rows = random_ids(6, 3, 4)
    batch, mask = pad(rows, "right")
    labels = torch.where(mask.bool(), batch, -100)
    module.backbone.loss(batch, labels, module.prefix())[0].backward()
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in module.trained_parameters()
    )
    with torch.no_grad():
        prefix = module.prefix()
        ids, mask = pad(rows, "left")
        backbone.__dict__["tokenizer"].eos_token_id = -1
        together = generate(module.backbone, backbone.tokenizer, ids, mask, prefix, 4)
        for row, tokens in zip(rows, together, strict=True):
            alone = generate(
                module.backbone, backbone.tokenizer, row[None], torch.ones_like(row)[None], prefix, 4
            )
            assert alone == [tokens]


def test_lora_copies_the_mixers() -> None:
    backbone = hybrid_backbone("qwen3_5_text", torch.float32)
    copy = with_own_modules(backbone)
    for layer, mixer in copy.mixers.items():
        assert mixer is not backbone.mixers[layer]
        assert copy.layers[layer].linear_attn.forward is mixer
        assert mixer._forward.__self__ is copy.layers[layer].linear_attn


def test_prefix_tuning_has_parameters_of_the_layers_with_attention() -> None:
    backbone = hybrid_backbone("qwen3_5_text", torch.float32)
    module = method("prefix", backbone)
    assert list(backbone.attention_layers) == [1, 3]
    assert module.keys_values.shape[0] == 4
    assert [entry is not None for entry in module.prefix().layers] == [False, True, False, True]


def test_gates_are_refused() -> None:
    with pytest.raises(UserError, match="layer 0 of backbone 'tiny' starts from a recurrent state"):
        method("dham", hybrid_backbone("qwen3_5_text", torch.float32), gate=True)


def test_layers_without_attention_are_named() -> None:
    backbone = hybrid_backbone("qwen3_5_text", torch.float32)
    with pytest.raises(UserError, match="saliency names layer 2, but only layers 1, 3 of backbone 'tiny'"):
        backbone.check_attention("saliency", [1, 2])

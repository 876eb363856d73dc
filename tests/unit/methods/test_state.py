"""What a method's checkpoint holds, and which module takes it."""

from typing import Any

import pytest
import torch

from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoints import FORMAT, describe, verify
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import METHODS, method, moved, tiny_backbone

LORA = [
    f"backbone.model.model.layers.{layer}.{matrix}_proj.lora_{part}.default.weight"
    for layer in range(4)
    for matrix in (
        *(f"self_attn.{name}" for name in "qkvo"),
        *(f"mlp.{name}" for name in ("gate", "up", "down")),
    )
    for part in "AB"
]
KEYS: dict[str, list[str]] = {
    "pretrained": [],
    "prompt": ["prompt"],
    "late": ["prompt"],
    "prompt-mlp": ["mlp_in.bias", "mlp_in.weight", "mlp_out.bias", "mlp_out.weight", "prompt"],
    "prefix": ["keys_values"],
    "prefix-mlp": ["embedding", "mlp_in.bias", "mlp_in.weight", "mlp_out.bias", "mlp_out.weight", "start"],
    "dham": ["prompts.0", "prompts.1", "prompts.2"],
    "dham-replace": ["prompts.0", "prompts.1"],
    "lora": LORA,
}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "prompt": {"prompt": (5, 32)},
    "prefix": {"keys_values": (8, 2, 5, 8)},
    "dham": {"prompts.0": (3, 32), "prompts.1": (2, 32), "prompts.2": (2, 32)},
    "dham-replace": {"prompts.0": (4, 32), "prompts.1": (3, 32)},
    "lora": {LORA[0]: (2, 32), LORA[1]: (32, 2), LORA[2]: (2, 32), LORA[3]: (16, 2)},
}


def fresh(name: str, **changes: Any) -> SoftPromptModule:
    return method(name, tiny_backbone("llama"), **changes)


def saved(module: SoftPromptModule) -> dict[str, Any]:
    """A checkpoint's part that a method writes."""
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.mark.parametrize("name", METHODS)
def test_keys(name: str) -> None:
    module = fresh(name)
    state = module.state_dict()
    assert sorted(state) == sorted(KEYS[name])
    for key, shape in SHAPES.get(name, {}).items():
        assert tuple(state[key].shape) == shape
    assert {tensor.dtype for tensor in state.values()} <= {torch.float32}
    trained = {key for key, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == set(state) - {"start"}


@pytest.mark.parametrize("name", METHODS)
def test_round_trip(name: str, llama: Any) -> None:
    """Saved weights give another module the same prefix and the same logits."""
    module = moved(name, llama)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        expected = module.backbone(ids, module.prefix())
        state = {key: value.clone() for key, value in module.state_dict().items()}
        other = moved(name, tiny_backbone("llama"), seed=9)
        if name != "pretrained":
            assert (other.backbone(ids, other.prefix()) - expected).abs().max() > 1e-3
        other.load_state_dict(state)
        assert torch.equal(other.backbone(ids, other.prefix()), expected)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "pretrained"])
def test_other_keys_are_refused(name: str, strict: bool) -> None:
    module = fresh(name)
    state = module.state_dict()
    key = sorted(state)[0]
    shorter = {other: value for other, value in state.items() if other != key}
    with pytest.raises(UserError, match=rf"^[^\n]*missing \['{key}'\][^\n]*$"):
        module.load_state_dict(shorter, strict=strict)
    with pytest.raises(UserError, match=r"^[^\n]*unexpected \['stranger'\][^\n]*$"):
        module.load_state_dict({**state, "stranger": torch.zeros(1)}, strict=strict)
    with pytest.raises(UserError, match=rf"^[^\n]*{key} is \(7, 7\) there and[^\n]*$"):
        module.load_state_dict({**state, key: torch.zeros(7, 7)}, strict=strict)


def test_a_refused_state_changes_nothing() -> None:
    module = fresh("dham")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = {key: torch.zeros_like(value) for key, value in before.items()} | {
        "prompts.2": torch.zeros(9, 32)
    }
    with pytest.raises(UserError):
        module.load_state_dict(state)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


# --- verify ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_own_checkpoint_is_accepted(name: str) -> None:
    checkpoint = saved(fresh(name))
    fresh(name).on_load_checkpoint(checkpoint)
    assert checkpoint["promptstage"]["format"] == FORMAT
    assert checkpoint["promptstage"]["method"] == type(fresh(name)).__name__


def test_description_is_plain() -> None:
    said = describe(fresh("dham"))
    assert said["structure"] == {"stages": "0 | 1-2 | 3", "mode": "accumulate"}
    assert said["backbone"]["name"] == "tiny"
    assert set(said) == {"format", "method", "backbone", "fingerprint", "structure", "arguments", "text"}


def test_another_backbone_is_refused() -> None:
    other = method("prompt", tiny_backbone("llama", seed=1))
    with pytest.raises(UserError, match=r"^the checkpoint belongs to backbone 'tiny' [^\n]*$") as caught:
        verify(fresh("prompt"), saved(other))
    assert other.backbone.fingerprint in str(caught.value)
    assert fresh("prompt").backbone.fingerprint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "theirs", "ours", "words"),
    [
        ("prompt", "dham", "prompt", "method must be DHAM as in the checkpoint, got PromptTuning"),
        (
            "stages",
            {"partition": [0, 1, 3]},
            {"partition": [0, 2, 3]},
            r"stages must be 0 \| 1-2 \| 3 as in the checkpoint, got 0-1 \| 2 \| 3",
        ),
        (
            "mode",
            {"mode": "replace"},
            {"mode": "accumulate"},
            "mode must be replace as in the checkpoint, got accumulate",
        ),
    ],
)
def test_another_method_or_structure_is_refused(name: str, theirs: Any, ours: Any, words: str) -> None:
    made = fresh(theirs) if isinstance(theirs, str) else fresh("dham", **theirs)
    model = fresh(ours) if isinstance(ours, str) else fresh("dham", **ours)
    with pytest.raises(UserError, match=rf"^[^\n]*{words}[^\n]*$"):
        verify(model, saved(made))


def test_another_insertion_layer_is_refused() -> None:
    """A late prompt has the keys and shapes of a prompt at layer 0."""
    with pytest.raises(UserError, match=r"^[^\n]*insert_at must be 2 as in the checkpoint, got 0$"):
        verify(fresh("prompt"), saved(fresh("late")))


def test_another_lora_scale_is_refused() -> None:
    """The same A and B are another update with another alpha."""
    with pytest.raises(UserError, match=r"^[^\n]*alpha must be 32 as in the checkpoint, got 2$"):
        verify(fresh("lora"), saved(fresh("lora", alpha=32)))
    with pytest.raises(UserError, match=r"^[^\n]*rank_stabilized must be True as in the checkpoint, got uns"):
        verify(fresh("lora"), saved(fresh("lora", rank_stabilized=True)))


@pytest.mark.parametrize(
    "checkpoint",
    [{}, {"state_dict": {}}, {"promptstage": None}, {"promptstage": 3}, {"promptstage": {}}],
    ids=str,
)
def test_what_is_not_ours_is_refused(checkpoint: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^the checkpoint was not written by promptstage$"):
        verify(fresh("prompt"), checkpoint)


def test_another_format_is_refused() -> None:
    checkpoint = saved(fresh("prompt"))
    checkpoint["promptstage"]["format"] = FORMAT + 1
    with pytest.raises(UserError, match=f"^the checkpoint has format {FORMAT + 1}, [^\n]*$"):
        verify(fresh("prompt"), checkpoint)

"""Fingerprints: equal for a model in every dtype and file form, different after any change of its weights."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from promptstage.lightning_modules.backbone.fingerprint import sampled_fingerprint
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import method, random_model, tiny_backbone

DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")
EMBEDDED = "08962e9c381f1e64"
"""The embedded backbone's fingerprint in checkpoints of the first version."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a float32 model."""
    folder = tmp_path_factory.mktemp("stored")
    random_model("llama", "eager", torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "promptstage"


def load(folder: Path | str, dtype: Any = "float32") -> Backbone:
    return Backbone(BackboneConfig(name=str(folder), dtype=dtype))


def changed(folder: Path, to: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """Return a copy of a stored model with changed tensors."""
    shutil.copytree(folder, to)
    state = load_file(to / "model.safetensors")
    change(state)
    save_file(state, to / "model.safetensors", {"format": "pt"})
    return to


def test_fingerprint_is_three_times_16_hexadecimal_digits(family: str) -> None:
    parts = tiny_backbone(family).fingerprint.split("-")
    assert [len(part) for part in parts] == [16, 16, 16]
    assert all(int(part, 16) >= 0 for part in parts)
    assert tiny_backbone(family).matches("-".join(parts))
    assert not tiny_backbone(family, seed=1).matches("-".join(parts))


def test_fingerprint_is_the_same_in_every_dtype(stored: Path) -> None:
    assert len({load(stored, dtype).fingerprint for dtype in DTYPES}) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_copy_in_another_dtype_is_the_same_backbone(stored: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    copy = changed(
        stored, tmp_path / "copy", lambda state: state.update({k: v.to(dtype) for k, v in state.items()})
    )
    one, other = load(stored), load(copy)
    assert one.matches(other.fingerprint)
    assert other.matches(one.fingerprint)


def test_shards_and_pytorch_files_are_the_same_backbone(stored: Path, tmp_path: Path) -> None:
    sharded, binary = tmp_path / "sharded", tmp_path / "binary"
    model = random_model("llama", "eager", torch.float32)
    model.save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    shutil.copytree(stored, binary)
    (binary / "model.safetensors").unlink()
    torch.save(model.state_dict(), binary / "pytorch_model.bin")
    assert load(stored).fingerprint == load(sharded).fingerprint == load(binary).fingerprint


def add_to_row(state: dict[str, Tensor]) -> None:
    state["model.embed_tokens.weight"][17] += 0.01


def flip_lowest_bit(state: dict[str, Tensor]) -> None:
    state["model.layers.2.mlp.up_proj.weight"].view(torch.int32)[3, 5] ^= 1


@pytest.mark.parametrize("change", [add_to_row, flip_lowest_bit])
def test_one_changed_row_or_bit_is_another_backbone(
    stored: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any]
) -> None:
    one, other = load(stored), load(changed(stored, tmp_path / "other", change))
    assert not one.matches(other.fingerprint)
    assert not other.matches(one.fingerprint)


def test_changed_row_in_a_half_precision_copy_is_another_backbone(stored: Path, tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        add_to_row(state)
        state.update({name: tensor.half() for name, tensor in state.items()})

    one, other = load(stored), load(changed(stored, tmp_path / "other", change))
    assert not one.matches(other.fingerprint)
    assert not other.matches(one.fingerprint)


def test_change_in_place_is_seen_though_size_and_time_are_the_same(stored: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(stored, folder)
    file = folder / "model.safetensors"
    before = load(folder)
    times = file.stat()
    with file.open("r+b") as raw:
        raw.seek(-3, os.SEEK_END)
        byte = raw.read(1)
        raw.seek(-3, os.SEEK_END)
        raw.write(bytes([byte[0] ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_mtime_ns == times.st_mtime_ns
    assert not load(folder).matches(before.fingerprint)


def test_digest_is_remembered_once_the_file_has_settled(
    stored: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptstage.lightning_modules.backbone import fingerprint

    monkeypatch.setattr(fingerprint, "_SETTLED", 3600.0)
    first = load(stored).fingerprint
    assert not (own_cache / "digests").exists()
    monkeypatch.setattr(fingerprint, "_SETTLED", -3600.0)
    assert load(stored).fingerprint == first
    (remembered,) = (own_cache / "digests").iterdir()
    monkeypatch.setattr(fingerprint, "_combined", None)  # would fail if called
    assert load(stored).fingerprint == first
    remembered.write_text("damaged", encoding="utf-8")
    monkeypatch.undo()
    assert load(stored).fingerprint == first


@pytest.mark.parametrize("dtype", DTYPES)
def test_fingerprint_of_the_first_version_is_accepted(dtype: str) -> None:
    backbone = load("embedded", dtype)
    assert backbone.matches(EMBEDDED)
    assert not backbone.matches(EMBEDDED[::-1])
    assert not backbone.matches("")


def test_fingerprint_of_the_first_version_sees_a_sampled_weight(family: str) -> None:
    model = random_model(family)
    before = sampled_fingerprint(model)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            original = parameter.flatten()[0].clone()
            parameter.view(-1)[0] += 1.0
            assert sampled_fingerprint(model) != before, name
            parameter.view(-1)[0] = original
    assert sampled_fingerprint(model) == before


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
        ("llama", {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rms_norm_eps": 1e-3}),
        ("llama", {"num_hidden_layers": 3}),
        ("mistral", {"sliding_window": 16}),
        ("gemma3", {"layer_types": ["full_attention"] * 4}),
        ("gemma3", {"query_pre_attn_scalar": 12}),
        ("gpt2", {"num_attention_heads": 8}),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"layer_norm_epsilon": 1e-3}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_fingerprint_sees_the_structure(family: str, changes: dict[str, Any]) -> None:
    """Structure counts even if every weight is unchanged."""
    assert tiny_backbone(family, **changes).fingerprint != tiny_backbone(family).fingerprint


def test_fingerprint_is_not_of_lora() -> None:
    backbone = tiny_backbone("llama")
    before = backbone.fingerprint
    method("lora", backbone)
    assert backbone.fingerprint == before == tiny_backbone("llama").fingerprint


def test_weight_that_is_not_finite_is_refused(stored: Path, tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state["model.embed_tokens.weight"][40, 3] = float("nan")

    folder = changed(stored, tmp_path / "other", change)
    with pytest.raises(UserError, match=r"weight model.embed_tokens.weight is not finite$"):
        load(folder)


@pytest.mark.smollm2
def test_fingerprint_of_smollm2(smollm2: Path) -> None:
    assert load(smollm2).fingerprint == load(smollm2, "bfloat16").fingerprint

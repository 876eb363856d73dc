"""A model in a GGUF file is the model it was written from, or it is refused."""

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from promptstage.lightning_modules.backbone import gguf_model
from promptstage.lightning_modules.backbone.decoding_step import end_tokens
from promptstage.lightning_modules.backbone.gguf_header import read_header
from promptstage.lightning_modules.backbone.loading import (
    BackboneConfig,
    load_tokenizer,
    read_config,
    vocabulary_size,
)
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.verification import compare
from promptstage.utilities.errors import UserError
from tests.tiny_gguf import TOKENS, TURN, make_model, save_gguf

FILE = "tiny.gguf"
FAMILIES = ("gemma3", "llama", "qwen2")


def config_of(folder: Path, **options: Any) -> BackboneConfig:
    return BackboneConfig(str(folder), gguf_file=FILE, **options)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        Backbone(config_of(folder))
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(5, 25)[None]).logits


# --- what is loaded -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_model_that_was_written(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    save_gguf(tmp_path / FILE, model)
    backbone = Backbone(config_of(tmp_path))
    actual = backbone(torch.arange(5, 25)[None])
    torch.testing.assert_close(actual, logits(model), rtol=1e-4, atol=1e-5)
    assert backbone.model.config.to_dict().get("quantization_config") is None
    assert not backbone.model.is_quantized


@pytest.mark.parametrize("family", FAMILIES)
def test_configuration_and_tokenizer_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    save_gguf(tmp_path / FILE, make_model(family))
    expected = AutoConfig.from_pretrained(tmp_path, gguf_file=FILE)
    for _ in range(2):  # from the file, and from the cache
        assert read_config(config_of(tmp_path)).to_dict() == expected.to_dict()
        gguf_model._configurations.clear()
    tokenizer = load_tokenizer(config_of(tmp_path))
    reference = AutoTokenizer.from_pretrained(tmp_path, gguf_file=FILE)
    assert type(tokenizer) is type(reference)
    text = "Two cats, 3 dogs.\n\n  é<end_of_turn>"
    ids = tokenizer(text)["input_ids"]
    assert ids == reference(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 2
    assert ids[-1] == TURN
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0)
    assert tokenizer.get_vocab() == reference.get_vocab()
    assert vocabulary_size(config_of(tmp_path)) == len(TOKENS)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("float64", torch.float64), ("bfloat16", torch.bfloat16)],
)
def test_dtype(dtype: str, expected: torch.dtype, tmp_path: Path) -> None:
    save_gguf(tmp_path / FILE, make_model("gemma3"))
    backbone = Backbone(config_of(tmp_path, dtype=dtype))
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {expected}
    assert backbone.matches(Backbone(config_of(tmp_path)).fingerprint)


def test_the_check_at_load_is_the_exact_one(tmp_path: Path) -> None:
    save_gguf(tmp_path / FILE, make_model("gemma3"))
    comparison = compare(Backbone(config_of(tmp_path)))
    assert comparison is not None
    assert comparison.tolerance.logits == 1e-3
    assert max(comparison.differences.values()) < 1e-4


def test_a_passed_check_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptstage.lightning_modules.backbone import verification

    save_gguf(tmp_path / FILE, make_model("gemma3", seed=3))
    Backbone(config_of(tmp_path))
    monkeypatch.setattr(verification, "_passed", set())
    monkeypatch.setattr(verification, "compare", lambda backbone: pytest.fail("compared again"))
    Backbone(config_of(tmp_path))


def test_generations_end_at_every_end_token_of_the_file(tmp_path: Path) -> None:
    save_gguf(tmp_path / FILE, make_model("gemma3"), metadata={"tokenizer.ggml.eot_token_id": TURN})
    backbone = Backbone(config_of(tmp_path))
    assert end_tokens(backbone, backbone.tokenizer) == {1, TURN}


def test_the_configuration_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_gguf(tmp_path / FILE, make_model("gemma3"))
    first = read_config(config_of(tmp_path)).to_dict()
    with monkeypatch.context() as patch:
        patch.setattr(AutoConfig, "from_pretrained", lambda *args, **kwargs: pytest.fail("converted again"))
        assert read_config(config_of(tmp_path)).to_dict() == first
        gguf_model._configurations.clear()
        assert read_config(config_of(tmp_path)).to_dict() == first
    save_gguf(tmp_path / FILE, make_model("gemma3", sliding_window=7))
    assert read_config(config_of(tmp_path)).sliding_window == 7


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bar_follows_the_setting_of_transformers(
    shown: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_gguf(tmp_path / FILE, make_model("gemma3"))
    logging = transformers.utils.logging
    before = logging.is_progress_bar_enabled()
    set_bar = {True: logging.enable_progress_bar, False: logging.disable_progress_bar}
    set_bar[shown]()
    try:
        Backbone(config_of(tmp_path))
    finally:
        set_bar[before]()
    assert ("Converting" in capfd.readouterr().err) == shown


# --- what is refused ------------------------------------------------------------------------------


def test_scaled_frequencies_of_llama_3(tmp_path: Path) -> None:
    """transformers skips the tensor with the factors; the model differs at every position."""
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    model = make_model("llama", rope_parameters=rope)
    rotary = model.model.rotary_emb
    plain = 1e4 ** (-torch.arange(0, 8, 2) / 8)
    factors = plain / rotary.inv_freq
    save_gguf(tmp_path / FILE, model, tensors={"rope_freqs.weight": factors})
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=FILE, attn_implementation="eager")
    assert (logits(stock) - logits(model)).abs().max() > 0.01
    assert "rotary positions that transformers does not read (rope_freqs.weight)" in refusal(tmp_path)

    save_gguf(tmp_path / FILE, make_model("llama"), tensors={"rope_freqs.weight": torch.ones(4)})
    assert Backbone(config_of(tmp_path)).num_layers == 4
    save_gguf(tmp_path / FILE, make_model("llama"), tensors={"rope_freqs.weight": torch.ones(2, 2)})
    assert "rope_freqs.weight must be a vector in float32" in refusal(tmp_path)


def test_linear_scaling_of_gemma_3(tmp_path: Path) -> None:
    settings = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    save_gguf(tmp_path / FILE, make_model("gemma3"), settings)
    assert "transformers does not read (rope.scaling.type 'linear')" in refusal(tmp_path)
    save_gguf(tmp_path / FILE, make_model("gemma3"), settings | {"rope.scaling.factor": 1.0})
    assert Backbone(config_of(tmp_path)).num_layers == 6


@pytest.mark.parametrize(
    ("family", "settings", "problem"),
    [
        ("qwen2", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "rope.scaling.type 'yarn'"),
        ("qwen2", {"rope.dimension_count": 4}, "rope.freq_base 10000.0"),
        ("gemma3", {"rope.freq_base_swa": 5e4}, "rope.freq_base_swa 50000.0"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30, which"),
        ("qwen2", {"attention.sliding_window": 6}, "attention.sliding_window 6, which"),
    ],
)
def test_settings_that_transformers_does_not_read(
    family: str, settings: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    save_gguf(tmp_path / FILE, make_model(family), settings)
    message = refusal(tmp_path)
    assert problem in message
    assert message.endswith("use the model's original files")


def test_rotary_base_of_starcoder2(tmp_path: Path) -> None:
    """transformers reads none, and uses 10,000."""
    config = transformers.Starcoder2Config(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    save_gguf(tmp_path / FILE, AutoModelForCausalLM.from_config(config))
    assert "rope.freq_base 1000000.0" in refusal(tmp_path)


def test_settings_equal_to_the_defaults(tmp_path: Path) -> None:
    settings = {"rope.freq_base_swa": 1e4, "rope.scaling.type": "none"}
    save_gguf(tmp_path / FILE, make_model("gemma3"), settings)
    assert Backbone(config_of(tmp_path)).num_layers == 6
    save_gguf(tmp_path / FILE, make_model("qwen2"), {"attention.sliding_window": 0})
    assert Backbone(config_of(tmp_path)).num_layers == 4


def test_tensors_that_transformers_skips(tmp_path: Path) -> None:
    """A Llama with biases: its configuration has none."""
    save_gguf(tmp_path / FILE, make_model("llama"), tensors={"blk.1.attn_q.bias": torch.ones(32)})
    assert "(not blk.1.attn_q.bias): use the model's original files" in refusal(tmp_path)


def test_a_tensor_that_is_missing(tmp_path: Path) -> None:
    save_gguf(tmp_path / FILE, make_model("llama"), {"block_count": 5})
    assert "its files lack weight model.layers.4." in refusal(tmp_path)


def test_a_part_of_a_model(tmp_path: Path) -> None:
    save_gguf(tmp_path / FILE, make_model("llama"), metadata={"split.count": 3})
    assert "is one of 3 parts: merge them with 'llama-gguf-split --merge'" in refusal(tmp_path)


def test_four_bits() -> None:
    with pytest.raises(UserError, match=r"^backbone\.quantization must be none for a GGUF file, got 4bit"):
        BackboneConfig("x", gguf_file=FILE, quantization="4bit")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"block_count": 2**31}, "block_count must be <= 10000, got 2147483648"),
        ({"block_count": 9000}, "its metadata has 9000 layers, its files"),
        ({"feed_forward_length": 2**30}, "its metadata describes a model of"),
    ],
)
def test_metadata_larger_than_the_file(settings: dict[str, Any], problem: str, tmp_path: Path) -> None:
    save_gguf(tmp_path / FILE, make_model("llama"), settings)
    assert problem in refusal(tmp_path)


def test_damaged_headers(tmp_path: Path) -> None:
    save_gguf(tmp_path / FILE, make_model("llama"))
    content = (tmp_path / FILE).read_bytes()
    whole = read_header(tmp_path / FILE)
    assert whole.setting("block_count") == 4
    assert whole.metadata["tokenizer.ggml.tokens"] == len(TOKENS)
    damaged = [
        content[:20],
        content[:4000],
        content[:4] + struct.pack("<I", 1) + content[8:],
        content[:4] + struct.pack("<IQQ", 3, 2**62, 2**62) + content[24:],
        content[:24] + struct.pack("<Q", 2**63) + content[32:],
    ]
    for other in damaged:
        (tmp_path / FILE).write_bytes(other)
        with pytest.raises(UserError, match="is truncated or damaged"):
            read_header(tmp_path / FILE)
        assert "is truncated or damaged" in refusal(tmp_path)
    (tmp_path / FILE).write_bytes(content.replace(b"general.architecture", b"general.architectura"))
    assert "has no `general.architecture` in its metadata" in refusal(tmp_path)

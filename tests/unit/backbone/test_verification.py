"""The numerical check at load passes right models, and refuses each kind of wrong one by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from promptstage.lightning_modules.backbone import structure, verification
from promptstage.lightning_modules.backbone.attention import IMPLEMENTATION, register
from promptstage.lightning_modules.backbone.attention_context import AttentionContext
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix_cache import PrefixCache
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import random_model, tiny_backbone, wrap

SHARED = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}


def wrong_config(name: str) -> Any:
    """Return the configuration of a family whose layers accept a prefix but compute something else."""
    import transformers as hf

    make = {
        "falcon_h1": lambda: hf.FalconH1Config(
            **SHARED, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1
        ),
        "bert": lambda: hf.BertConfig(**SHARED),
        "bart": lambda: hf.BartConfig(
            vocab_size=64,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            decoder_attention_heads=4,
            decoder_ffn_dim=48,
            **{f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "eos", "decoder_start"))},
        ),
        "zaya": lambda: hf.ZayaConfig(**SHARED, head_dim=8, num_experts=4, num_experts_per_tok=1),
        "deepseek_v2": lambda: hf.DeepseekV2Config(
            **SHARED, **LATENT, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1
        ),
        "xmod": lambda: hf.XmodConfig(**SHARED, is_decoder=True),
    }
    return make[name]()


def ready(config: Any, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    from transformers import AutoModelForCausalLM

    register()
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION, dtype=dtype)


@pytest.fixture(autouse=True)
def nothing_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start without checks passed in other tests; return the cache folder."""
    monkeypatch.setattr(verification, "_passed", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "promptstage" / "verified"


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each comparison."""
    made: list[int] = []
    attempt = verification._attempt
    monkeypatch.setattr(verification, "_attempt", lambda *a: made.append(1) or attempt(*a))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_right_families_pass_in_every_dtype(family: str, dtype: torch.dtype) -> None:
    assert tiny_backbone(family, dtype=dtype).dtype == dtype


def test_right_families_pass_with_gradient_checkpointing(family: str) -> None:
    assert tiny_backbone(family, gradient_checkpointing=True).num_layers == 4


CAUSES = {
    "bert": "its attention is not causal",
    "bart": "it ignores position_ids",
    "zaya": "its keys and values of a token depend on other tokens",
    "falcon_h1": "its layers pass information between tokens outside attention",  # if its mixers stay unknown
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CAUSES)
def test_family_with_other_logits_is_refused_with_the_cause(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "wrap_token_mixers", lambda *_: {})
    with pytest.raises(
        UserError,
        match=rf"cannot take a prefix: {CAUSES[name]}: logits behind a prefix differ by [\d.]+ standard "
        r"deviations from those of the same tokens as text \(allowed: 0.001\)$",
    ):
        wrap(ready(wrong_config(name), dtype))


@pytest.mark.parametrize("name", ["deepseek_v2", "xmod"])
def test_family_that_breaks_on_the_way_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"^backbone 'tiny' \(\w+\) cannot take a prefix: [^\n]+$"):
        wrap(ready(wrong_config(name)))


def test_errors_of_a_familys_code_are_named_without_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    forward = type(model.model).forward
    errors = [KeyError("mask"), TypeError("'NoneType' object is not callable"), ValueError("too short")]
    lines = ["its code fails on packed examples"] * 2 + ["its code fails on packed examples: too short"]
    for error, line in zip(errors, lines, strict=True):

        def failing(self: Any, *args: Any, error: Exception = error, **kwargs: Any) -> Any:
            if isinstance(context := kwargs.get("context"), AttentionContext) and context.packing is not None:
                raise error
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(type(model.model), "forward", failing)
        with pytest.raises(UserError, match=rf"cannot take a prefix: {line}$"):
            wrap(model)


def test_scaled_logits_are_seen_though_the_padding_tokens_embedding_is_zero() -> None:
    import transformers

    for config in (
        transformers.GraniteConfig(**SHARED, logits_scaling=2.0),
        transformers.CohereConfig(**SHARED, logit_scale=0.1),
    ):
        model = ready(config)
        assert not model.get_input_embeddings().weight[0].any()
        assert not wrap(model).plain_head


class _ShiftedLate(nn.Module):
    """Decoder block whose input mixes in the previous position outside attention."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        before = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], dim=1)
        return self.block(hidden + 0.5 * before, *args, **kwargs)


def test_layer_that_looks_back_outside_attention_is_refused() -> None:
    model = random_model("llama")
    model.model.layers[2] = _ShiftedLate(model.model.layers[2])
    with pytest.raises(UserError, match="logits behind a prefix differ by"):
        wrap(model)


def test_cache_that_loses_a_column_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    forward = type(model.model).forward

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values", kwargs.get("cache"))
        if isinstance(cache, PrefixCache) and kwargs["position_ids"].shape[1] == 1:
            kwargs["position_ids"] = kwargs["position_ids"] - 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", forgetful)
    with pytest.raises(UserError, match="logits of cached generation differ by"):
        wrap(model)


def test_family_that_halves_the_prompts_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    forward = type(model.model).forward

    def halving(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (given := kwargs.get("inputs_embeds")) is not None:
            kwargs["inputs_embeds"] = given.detach() + 0.5 * (given - given.detach())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", halving)
    with pytest.raises(UserError, match=r"the prompt's gradient differ by [\d.]+ standard deviations"):
        wrap(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    model = random_model("llama", dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight[3] = value
    with pytest.raises(UserError, match=r"its logits are not finite$"):
        wrap(model)


def test_numbers_too_large_for_float16_are_refused() -> None:
    model = random_model("llama", dtype=torch.float16)
    with torch.no_grad():
        model.model.norm.weight.fill_(60000.0)
    with pytest.raises(UserError, match=r"its logits are not finite$"):
        wrap(model)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 8, 32])
def test_narrow_windows_are_compared_within_sight(window: int) -> None:
    (view,) = tiny_backbone("mistral", sliding_window=window).views
    assert (view.window or view.chunk) == window  # a window of 1 is a chunk of 1


def test_check_leaves_the_model_as_it_was() -> None:
    model = random_model("llama")
    state = torch.get_rng_state()
    backbone = wrap(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config._attn_implementation == IMPLEMENTATION
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in backbone.parameters())


# --- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_model("llama", "eager", torch.float32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> Backbone:
    """Load as a new process would."""
    monkeypatch.setattr(verification, "_passed", set())
    return Backbone(BackboneConfig(name=str(folder), **config))


def test_result_is_remembered_by_weights_dtype_and_versions(
    folder: Path, nothing_passed: Path, attempts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder, monkeypatch)
    load(folder, monkeypatch)
    assert len(attempts) == 1
    assert [file.read_bytes() for file in nothing_passed.iterdir()] == [b""]
    load(folder, monkeypatch, dtype="float64")
    assert len(attempts) == 2
    load(folder, monkeypatch, gradient_checkpointing=True)
    assert len(attempts) == 3
    monkeypatch.setattr("transformers.__version__", "99.0")
    load(folder, monkeypatch)
    assert len(attempts) == 4


def test_model_made_in_memory_leaves_nothing_on_disk(nothing_passed: Path) -> None:
    tiny_backbone("llama")
    assert not nothing_passed.exists()


def test_cache_that_cannot_be_used_is_ignored(
    folder: Path, nothing_passed: Path, attempts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_passed.parent.parent.mkdir()
    nothing_passed.parent.write_text("a file, no folder", encoding="utf-8")
    load(folder, monkeypatch)
    nothing_passed.parent.unlink()
    load(folder, monkeypatch)
    (mark,) = nothing_passed.iterdir()
    assert len(attempts) == 2
    mark.chmod(0o666)  # anyone may have written it
    load(folder, monkeypatch)
    assert len(attempts) == 3
    mark.unlink()
    mark.symlink_to("/dev/null")
    load(folder, monkeypatch)
    assert len(attempts) == 4
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/x")
    load(folder, monkeypatch)
    assert len(attempts) == 5


def test_refused_model_is_refused_again_and_not_remembered(
    tmp_path: Path, nothing_passed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(wrong_config("bert")).save_pretrained(tmp_path / "wrong")
    for _ in range(2):
        with pytest.raises(UserError, match="logits behind a prefix differ"):
            load(tmp_path / "wrong", monkeypatch)
    assert not nothing_passed.exists()

"""Refusal of prompts that PEFT cannot hold, and of folders that are damaged or of another backbone."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import promptstage as ps
from promptstage.lightning_modules.adapters.export import adapter_of
from promptstage.lightning_modules.adapters.files import write_adapter
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.tiny_model import random_model, tiny_config
from promptstage.lightning_modules.initialization import PromptInit
from tests.tiny_folder import save_tiny_backbone
from tests.unit.methods.prompts import backbone, folder, trained

__all__ = ["backbone", "folder"]  # fixtures

CANNOT = "cannot be exported: PEFT and vLLM have the same virtual tokens in every layer, but "
CONFIG, TENSORS, ORIGIN = "adapter_config.json", "adapter_model.safetensors", "promptstage.json"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("late", f"PromptTuning {CANNOT}a late prompt enters at layer 2, not with the embeddings"),
        ("visible prompt", f"PromptTuning {CANNOT}visible_from hides the prompt in some layers"),
        ("prefix with MLP", f"PrefixTuning {CANNOT}visible_until hides the prompt in some layers"),
        ("DHAM", f"DHAM {CANNOT}with mode accumulate, later layers have more virtual tokens (mode replace)"),
        (
            "replacing DHAM",
            f"DHAM {CANNOT}its stages have 4, 3 virtual tokens (num_virtual_tokens must be a multiple of 2)",
        ),
        (
            "DHAM after BOS",
            f"DHAM {CANNOT}bos_first removes the BOS from the content, and a prefix in PEFT cannot",
        ),
        (
            "full fine-tuning",
            "FullFineTuning cannot be exported to PEFT: method must be PromptTuning, Prefix",
        ),
        ("pretrained", "Pretrained cannot be exported to PEFT: method must be PromptTuning, PrefixTuning, "),
    ],
)
def test_what_peft_cannot_hold_is_refused(name: str, words: str, backbone: Backbone) -> None:
    with pytest.raises(ps.UserError) as refusal:
        adapter_of(trained(name, backbone))
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("family", "method", "reason"),
    [
        ("gemma4", ps.PrefixTuning, "keys and values of backbone '{}' differ in shape"),
        ("deepseek_v3", ps.PrefixTuning, "keys and values of backbone '{}' differ in shape"),
        (
            "gemma3n_text",
            ps.PromptTuning,
            "has embeddings of tokens in every layer, and PEFT and vLLM have none",
        ),
        ("qwen3_5_text", ps.PrefixTuning, "not every layer of backbone '{}' has keys and values"),
        ("gpt_bigcode", ps.PrefixTuning, "PEFT expects num_key_value_heads 2, and they have 1"),
    ],
)
def test_backbones_on_which_peft_differs(family: str, method: Any, reason: str, tmp_path: Path) -> None:
    folder = save_tiny_backbone(tmp_path / "backbone")
    config = tiny_config(CONFIG_MAPPING[family])
    for name in ("vocab_size", "vocab_size_per_layer_input"):
        if hasattr(config, name):
            setattr(config, name, 262)
    random_model(config).save_pretrained(folder)
    module = method(Backbone(str(folder)), num_virtual_tokens=3)
    with pytest.raises(ps.UserError) as refusal:
        adapter_of(module)
    assert reason.format(folder) in str(refusal.value)


class OwnMethod(ps.PromptTuning):
    """A method outside the project, which may use its prompt in another way."""


def test_methods_outside_the_project_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    module = OwnMethod(backbone, num_virtual_tokens=3)
    for to in ("peft", "vllm"):
        with pytest.raises(ps.UserError, match=r"^OwnMethod cannot be exported to [^\n]*$"):
            ps.export(module, to, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# --- folders ------------------------------------------------------------------------------------------


def exported(name: str, backbone: Backbone, path: Path) -> Path:
    path.mkdir()
    write_adapter(path, adapter_of(trained(name, backbone)))
    return path


def foreign(name: str, backbone: Backbone, path: Path) -> Path:
    """A folder as PEFT writes it, without a description of its origin."""
    (exported(name, backbone, path) / ORIGIN).unlink()
    return path


def change(**values: Any) -> Callable[[Path], None]:
    """Change values of the configuration."""

    def apply(path: Path) -> None:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        (path / CONFIG).write_text(json.dumps(config | values), encoding="utf-8")

    return apply


def tensors(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Change tensors."""

    def apply(path: Path) -> None:
        stored = load_file(path / TENSORS)
        edit(stored)
        save_file(stored, path / TENSORS)

    return apply


def pickled(path: Path) -> None:
    (path / TENSORS).unlink()
    (path / "adapter_model.bin").write_bytes(pickle.dumps({"prompt_embeddings": 1}))


ROWS, LORA_KEY = "prompt_embeddings", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
DAMAGES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("prompt", change(peft_type="IA3"), "peft_type 'IA3' is not supported: "),
    ("prompt", change(peft_type=None), "peft_type 'None' is not supported: "),
    ("prompt", change(task_type="SEQ_CLS"), "task_type must be CAUSAL_LM, got 'SEQ_CLS'"),
    ("prompt", change(num_layers=5), "num_layers must be 4, got 5"),
    ("prompt", change(num_virtual_tokens=7), "num_virtual_tokens must be 5, got 7"),
    ("prompt", change(num_transformer_submodules=2), "num_transformer_submodules must be 1, got 2"),
    ("prefix", change(num_attention_heads=8), "num_attention_heads must be 2, got 8"),
    ("prefix", change(num_virtual_tokens="4"), "num_virtual_tokens must be 4, got '4'"),
    ("prompt", lambda path: (path / CONFIG).write_text("[]"), "must be a mapping"),
    ("prompt", lambda path: (path / CONFIG).write_text("{"), "is not valid JSON"),
    ("prompt", lambda path: (path / CONFIG).write_text("[" * 100_000), "is nested too deeply"),
    ("prompt", lambda path: (path / TENSORS).unlink(), f"has no {TENSORS}"),
    ("prompt", lambda path: (path / TENSORS).write_bytes(b"\x80\x04N."), "is not a safetensors file"),
    ("prompt", pickled, "adapter_model.bin could run code: save it again with safe_serialization=True"),
    ("prompt", tensors(lambda t: t.pop(ROWS)), "must have tensors of floating-point numbers only"),
    ("prompt", tensors(lambda t: t.update(x=torch.ones(1))), f"the only tensor must be '{ROWS}', got "),
    ("prompt", tensors(lambda t: t[ROWS].fill_(torch.nan)), "NaN or infinite values"),
    ("prompt", tensors(lambda t: t.update({ROWS: t[ROWS].int()})), "floating-point numbers only"),
    (
        "prompt",
        tensors(lambda t: t.update({ROWS: t[ROWS][:, 1:].clone()})),
        "the width being hidden size, got (5, 31)",
    ),
    ("prompt", tensors(lambda t: t.update({ROWS: t[ROWS][:0]})), "got (0, 32)"),
    ("prompt", tensors(lambda t: t.update({ROWS: t[ROWS][0].clone()})), "got (32,)"),
    ("prefix", tensors(lambda t: t.update({ROWS: t[ROWS][:, :32].clone()})), "key-value heads · head dim"),
    (
        "prefix",
        change(peft_type="LORA"),
        "LoRA with encoder_hidden_size is not supported",
    ),
    ("LoRA", change(peft_type="PREFIX_TUNING"), f"the only tensor must be '{ROWS}', got base_model."),
    ("LoRA", change(use_dora=True), "LoRA with use_dora is not supported, got True"),
    ("LoRA", change(rank_pattern={"q_proj": 4}), "LoRA with rank_pattern is not supported"),
    ("LoRA", change(of_the_future=1), "LoRA with of_the_future is not supported, got 1"),
    ("LoRA", change(init_lora_weights="pissa"), "init_lora_weights 'pissa' changes weights of the model"),
    ("LoRA", change(r=3), "lora_A.default.weight is (2, 32) there and (3, 32) here"),
    ("LoRA", change(r=10**9), "LoRA rank must be <= 32 (hidden size of the backbone), got 1000000000"),
    ("LoRA", change(lora_alpha=0.5), "lora_alpha must be an integer, got 0.5"),
    ("LoRA", change(target_modules=["k_proj"]), "the checkpoint does not fit the model: missing "),
    ("LoRA", change(target_modules=["nothing"]), "LoRA cannot be added: "),
    (
        "LoRA",
        tensors(lambda t: t.update({"x": t.pop(LORA_KEY)})),
        "tensor 'x' is no lora_A or lora_B of",
    ),
]


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGES, ids=[words for *_, words in DAMAGES])
def test_damaged_and_foreign_folders_are_refused(
    name: str, damage: Callable[[Path], Any], words: str, backbone: Backbone, tmp_path: Path
) -> None:
    path = foreign(name, backbone, tmp_path / "peft")
    damage(path)
    with pytest.raises(ps.UserError) as refusal:
        ps.load(path, backbone)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_folder_of_another_backbone_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    other = Backbone(str(save_tiny_backbone(tmp_path / "other", layers=5)))
    path = exported("prompt", backbone, tmp_path / "peft")
    with pytest.raises(ps.UserError, match=r"^PEFT folder [^\n]* belongs to backbone '[^\n]*$"):
        ps.load(path, other)
    (path / ORIGIN).unlink()
    with pytest.raises(ps.UserError, match=r"^PEFT folder [^\n]*: num_layers must be 5, got 4$"):
        ps.load(path, other)


def test_an_adapter_that_was_trained_further_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    path = exported("prompt", backbone, tmp_path / "peft")
    tensors(lambda stored: stored[ROWS].add_(1))(path)
    with pytest.raises(ps.UserError, match=r"describes other tensors [^\n]*, remove promptstage.json$"):
        ps.load(path, backbone)
    (path / ORIGIN).unlink()
    assert isinstance(ps.load(path, backbone), ps.PromptTuning)


@pytest.mark.parametrize("field", ["leading", "text", "format", "backbone"])
def test_a_damaged_description_is_refused(field: str, backbone: Backbone, tmp_path: Path) -> None:
    path = exported("prompt", backbone, tmp_path / "peft")
    values = json.loads((path / ORIGIN).read_text(encoding="utf-8"))
    (path / ORIGIN).write_text(json.dumps(values | {field: 7}), encoding="utf-8")
    with pytest.raises(ps.UserError, match=rf"^PEFT file [^\n]*promptstage.json: [^\n]*{field}[^\n]*$"):
        ps.load(path, backbone)


def test_a_folder_without_a_base_model_needs_a_backbone(backbone: Backbone, tmp_path: Path) -> None:
    path = foreign("prompt", backbone, tmp_path / "peft")
    change(base_model_name_or_path=None)(path)
    with pytest.raises(ps.UserError, match=r"^PEFT folder [^\n]* names no base model: give a backbone$"):
        ps.load(path)
    assert isinstance(ps.load(path, backbone), ps.PromptTuning)


def test_a_class_s_own_loader_names_the_other(backbone: Backbone, tmp_path: Path) -> None:
    path = exported("prompt", backbone, tmp_path / "peft")
    with pytest.raises(ps.UserError, match=r"load this PEFT folder with promptstage\.load$"):
        ps.PromptTuning.load_from_checkpoint(path, backbone=backbone)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "peft"}, "prompt init 'peft' needs a PEFT folder (model.init.path)"),
        ({"path": "x"}, "prompt init 'vocabulary' takes no path, got 'x' (model.init.path)"),
    ],
)
def test_path_and_kind_of_an_init_belong_together(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ps.UserError) as refusal:
        PromptInit(**arguments)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("cls", "name", "length", "words"),
    [
        (ps.PromptTuning, "prompt", 4, "has 5 virtual tokens, but the prompt that starts from it has 4"),
        (ps.PrefixTuning, "prefix", 5, "has 4 virtual tokens, but the prompt that starts from it has 5"),
        (ps.PromptTuning, "prefix", 4, "peft_type must be PROMPT_TUNING, got PREFIX_TUNING"),
        (ps.PrefixTuning, "LoRA", 4, "peft_type must be PROMPT_TUNING, got LORA"),
    ],
)
def test_an_init_of_another_length_or_kind_is_refused(
    cls: Any, name: str, length: int, words: str, backbone: Backbone, tmp_path: Path
) -> None:
    path = exported(name, backbone, tmp_path / "peft")
    module = cls(backbone, num_virtual_tokens=length, init=PromptInit("peft", path=str(path)))
    with pytest.raises(ps.UserError) as refusal:
        module.create_prompts()
    assert str(refusal.value) == f"PEFT folder {path}: {words}" or words in str(refusal.value)

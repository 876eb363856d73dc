"""Prompts in PEFT's files: the same numbers here, there, and back here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import promptstage as ps
from promptstage.lightning_modules.adapters.export import adapter_of
from promptstage.lightning_modules.adapters.files import read_adapter, write_adapter
from promptstage.lightning_modules.adapters.layout import flat_prefix, split_prefix
from promptstage.lightning_modules.backbone.loading import location
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.text_settings import TextSettings
from tests.unit.backbone.tiny import tiny_backbone

QUESTION = "347+58"
METHODS: dict[str, Any] = {
    "prompt": lambda b: ps.PromptTuning(b, num_virtual_tokens=5),
    "prompt after BOS": lambda b: ps.PromptTuning(b, num_virtual_tokens=5, bos_first=True),
    "prompt with MLP": lambda b: ps.PromptTuning(b, num_virtual_tokens=5, mlp_width=8),
    "prefix": lambda b: ps.PrefixTuning(b, num_virtual_tokens=5),
    "prefix with a frozen token": lambda b: ps.PrefixTuning(b, num_virtual_tokens=5, num_frozen_tokens=1),
    "prefix with MLP": lambda b: ps.PrefixTuning(b, num_virtual_tokens=5, mlp_width=8),
    "replacing DHAM": lambda b: ps.DHAM(b, num_virtual_tokens=9, partition=[0, 3, 7], mode="replace"),
    "DHAM with gates": lambda b: ps.DHAM(b, 9, [0, 3, 7], mode="replace", gate=True),
    "DHAM of one stage": lambda b: ps.DHAM(b, num_virtual_tokens=4, partition="single"),
    "LoRA": lambda b: ps.LoRA(b, rank=3),
    "LoRA of queries": lambda b: ps.LoRA(b, rank=3, target_modules=["q_proj"], rank_stabilized=True),
}
MATERIALIZED = ("prompt with MLP", "prefix with MLP", "prefix with a frozen token")
KINDS = {"prompt": ps.PromptTuning, "prefix": ps.PrefixTuning, "LoRA": ps.LoRA}


@pytest.fixture(scope="module")
def embedded() -> ps.Backbone:
    return ps.Backbone("embedded")


@pytest.fixture(scope="module")
def real(smollm2: Path) -> ps.Backbone:
    return ps.Backbone(str(smollm2))


def trained(name: str, backbone: ps.Backbone) -> SoftPromptModule:
    """A method away from its starting values."""
    module = METHODS[name](backbone)
    module.create_prompts()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.trained_parameters():
            scale = 0.1 * parameter.std().nan_to_num() if parameter.any() else torch.tensor(0.02)
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))
    return module


def exported(module: SoftPromptModule, folder: Path) -> Path:
    folder.mkdir()
    write_adapter(folder, adapter_of(module))
    return folder


def bare(backbone: ps.Backbone) -> Any:
    """The same weights in a model of their own, for PEFT to wrap."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(location(backbone.config)[0], dtype=torch.float32)


def tokens(backbone: ps.Backbone) -> Tensor:
    text = f"Question: {QUESTION}\nAnswer: the sum of the ones is"
    return backbone.tokenizer(text, return_tensors="pt")["input_ids"]


@torch.no_grad()
def logits(module: SoftPromptModule) -> Tensor:
    return module.backbone(tokens(module.backbone), module.prefix())


@torch.no_grad()
def peft_logits(folder: Path, backbone: ps.Backbone) -> Tensor:
    from peft import PeftModel

    model = PeftModel.from_pretrained(bare(backbone), str(folder)).eval()
    ids = tokens(backbone)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1] :]


def assert_like_peft(name: str, backbone: ps.Backbone, folder: Path) -> None:
    """Logits agree to 1e-5 of the largest one in float32, and the prompt has an effect on them."""
    module = trained(name, backbone)
    expected = peft_logits(exported(module, folder), backbone)
    actual = logits(module)
    largest = expected.abs().max()
    assert (actual - expected).abs().max() < 1e-5 * largest
    with torch.no_grad():
        assert (backbone(tokens(backbone), None) - actual).abs().max() > 1e-2 * largest


@pytest.mark.parametrize("name", METHODS)
def test_logits_of_peft_on_the_embedded_backbone(name: str, embedded: ps.Backbone, tmp_path: Path) -> None:
    assert_like_peft(name, embedded, tmp_path / "peft")


@pytest.mark.smollm2
@pytest.mark.parametrize("name", ["prompt", "prompt after BOS", "prefix", "replacing DHAM", "LoRA"])
def test_logits_of_peft_on_smollm2(name: str, real: ps.Backbone, tmp_path: Path) -> None:
    assert_like_peft(name, real, tmp_path / "peft")


@pytest.mark.parametrize("name", METHODS)
def test_the_way_back_is_exact(name: str, embedded: ps.Backbone, tmp_path: Path) -> None:
    module = trained(name, embedded)
    module.text_settings = TextSettings("gsm8k", "cot", None, ("\n\n", "Q:"), 17)
    first = exported(module, tmp_path / "first")
    loaded = ps.load(first, embedded)
    assert torch.equal(logits(loaded), logits(module))
    assert loaded.text_settings == module.text_settings
    assert not loaded.training
    second = exported(loaded, tmp_path / "second")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    if type(module) is type(loaded) and name not in MATERIALIZED:
        state, expected = loaded.state_dict(), module.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_the_backbone_is_loaded_by_its_name(embedded: ps.Backbone, tmp_path: Path) -> None:
    module = trained("prompt", embedded)
    loaded = ps.load(exported(module, tmp_path / "peft"))
    assert loaded.backbone_config == embedded.config
    assert torch.equal(logits(loaded), logits(module))


def test_layout_of_a_prefix() -> None:
    """Row t has the keys of layer 0, its values, the keys of layer 1, …, each by head."""
    layers, heads, length, width = 3, 2, 4, 5
    keys_values = np.random.default_rng(0).normal(size=(2 * layers, heads, length, width))
    rows = [
        [keys_values[i, head, t, j] for i in range(2 * layers) for head in range(heads) for j in range(width)]
        for t in range(length)
    ]
    tensor = torch.from_numpy(keys_values)
    assert torch.equal(flat_prefix(tensor), torch.tensor(rows, dtype=torch.float64))
    assert torch.equal(split_prefix(flat_prefix(tensor), 2 * layers, heads), tensor)


# --- trained by PEFT ----------------------------------------------------------------------------------


def peft_config(kind: str) -> Any:
    import peft

    common = {"task_type": "CAUSAL_LM"}
    if kind == "prompt":
        return peft.PromptTuningConfig(num_virtual_tokens=6, **common)
    if kind == "prefix":
        return peft.PrefixTuningConfig(num_virtual_tokens=6, **common)
    if kind == "projected prefix":
        return peft.PrefixTuningConfig(
            num_virtual_tokens=6, prefix_projection=True, encoder_hidden_size=16, **common
        )
    if kind == "cartridge":
        return peft.CartridgeConfig(num_virtual_tokens=6, num_frozen_tokens=1, **common)
    return peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **common)


def trained_by_peft(kind: str, backbone: ps.Backbone, folder: Path) -> Any:
    """Train a prompt on three sums with PEFT alone, and save it; return PEFT's model."""
    from peft import get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(bare(backbone), peft_config(kind))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for question, answer in (("12+30", "42"), ("7+8", "15"), ("105+5", "110")):
        text = f"Question: {question}\nAnswer: {answer}"
        ids = backbone.tokenizer(text, return_tensors="pt")["input_ids"]
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(folder))
    return model.eval()


def assert_same_tokens(kind: str, backbone: ps.Backbone, folder: Path) -> None:
    """A prompt that PEFT has trained generates the tokens of PEFT, one question at a time."""
    model = trained_by_peft(kind, backbone, folder)
    loaded = ps.load(folder, backbone)
    assert type(loaded) is KINDS.get(kind, ps.PrefixTuning)
    loaded.text_settings = TextSettings(stop=("no such text",), max_new_tokens=24)
    ids = backbone.tokenizer(f"Question: {QUESTION}\nAnswer:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )
    generated = theirs[0, ids.shape[1] :]
    assert len(generated) > 3
    text = backbone.tokenizer.decode(generated, skip_special_tokens=True)
    assert loaded.generate(QUESTION) == text


@pytest.mark.parametrize("kind", ["prompt", "prefix", "projected prefix", "cartridge", "LoRA"])
def test_tokens_of_prompts_trained_by_peft(kind: str, embedded: ps.Backbone, tmp_path: Path) -> None:
    assert_same_tokens(kind, embedded, tmp_path / "theirs")


@pytest.mark.smollm2
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_prompts_trained_by_peft_on_smollm2(kind: str, real: ps.Backbone, tmp_path: Path) -> None:
    assert_same_tokens(kind, real, tmp_path / "theirs")


def test_a_fit_starts_from_a_peft_folder(embedded: ps.Backbone, tmp_path: Path) -> None:
    for kind, cls, name in (
        ("prompt", ps.PromptTuning, "prompt"),
        ("prefix", ps.PrefixTuning, "keys_values"),
    ):
        folder = tmp_path / kind
        trained_by_peft(kind, embedded, folder)
        init = {"kind": "peft", "path": str(folder)}
        module = cls(embedded, num_virtual_tokens=6, init=ps_init(**init))
        module.create_prompts()
        expected = ps.load(folder, embedded)
        assert torch.equal(module.state_dict()[name], expected.state_dict()[name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_prompt_is_trained_further(kind: str, embedded: ps.Backbone, tmp_path: Path) -> None:
    trained_by_peft(kind, embedded, tmp_path / "theirs")
    prompt = ps.load(tmp_path / "theirs", embedded)
    before = {name: tensor.clone() for name, tensor in prompt.state_dict().items()}
    data = ps.Generated(task="addition", train_size=16, validation_size=2, max_new_tokens=4)
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    run = ps.fit(prompt, data, max_steps=1, lr=0.01, folder=tmp_path / "run", **quiet)
    after = ps.load(run.folder, embedded)
    assert type(after) is KINDS[kind]
    differences = [(after.state_dict()[name] - tensor).abs().max() for name, tensor in before.items()]
    assert 0 < max(differences) < 0.02


def test_a_prefix_starts_from_the_keys_of_a_peft_prompt(embedded: ps.Backbone, tmp_path: Path) -> None:
    trained_by_peft("prompt", embedded, tmp_path / "prompt")
    init = ps_init("peft", path=str(tmp_path / "prompt"))
    module = ps.PrefixTuning(embedded, num_virtual_tokens=6, init=init)
    module.create_prompts()
    same = ps.load(tmp_path / "prompt", embedded)
    assert (logits(module) - logits(same)).abs().max() < 1e-4


def test_a_saved_prompt_does_not_need_the_folder_it_started_from(
    embedded: ps.Backbone, tmp_path: Path
) -> None:
    trained_by_peft("prompt", embedded, tmp_path / "theirs")
    init = ps_init("peft", path=str(tmp_path / "theirs"))
    module = ps.PromptTuning(embedded, num_virtual_tokens=6, init=init)
    module.save(tmp_path / "saved")
    (tmp_path / "theirs" / "adapter_config.json").unlink()
    loaded = ps.load(tmp_path / "saved", embedded)
    assert torch.equal(logits(loaded), logits(module))
    assert loaded.constructor_arguments["init"] == init


def test_tensors_are_those_of_the_folder(embedded: ps.Backbone, tmp_path: Path) -> None:
    folder = exported(trained("prompt after BOS", embedded), tmp_path / "peft")
    adapter = read_adapter(folder)
    rows = adapter.tensors["prompt_embeddings"]
    bos = embedded.embedding[embedded.tokenizer.bos_token_id]
    assert rows.shape == (6, embedded.hidden_size)
    assert torch.equal(rows[0], bos)
    assert (adapter.config["num_virtual_tokens"], adapter.leading) == (6, 1)


def test_differences_in_other_programs_are_noted(
    embedded: ps.Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ps.export(trained("prompt", embedded), "peft", tmp_path / "plain")
    assert capsys.readouterr().err == ""
    ps.export(trained("prompt after BOS", embedded), "peft", tmp_path / "bos")
    note = "note: the first row is the BOS (bos_first): tokenize questions without a BOS\n"
    assert capsys.readouterr().err == note
    windows = ps.PromptTuning(tiny_backbone("gemma3"), num_virtual_tokens=3)
    ps.export(windows, "peft", tmp_path / "windows")
    assert " see 96 tokens: elsewhere, longer texts push the prompt out" in capsys.readouterr().err


def ps_init(kind: Any, path: str) -> Any:
    from promptstage.lightning_modules.initialization import PromptInit

    return PromptInit(kind, path=path)

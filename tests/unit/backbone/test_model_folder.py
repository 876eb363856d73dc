"""Damaged, inconsistent and malicious model folders are refused in one line, and run no code."""

import json
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from promptstage.lightning_modules.backbone.attention import IMPLEMENTATION
from promptstage.lightning_modules.backbone.boundary import deadline, reading, reason
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer, vocabulary_size
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.utilities.errors import UserError
from tests.mutate_backbones import Mutation, mutated, mutations
from tests.tiny_folder import save_tiny_backbone
from tests.unit.data.connected import connected

# One of each kind that takes a path of its own; the script runs all.
FAST = (
    *("model.safetensors LFS pointer", "model.safetensors empty", "model.safetensors cut at 0.5"),
    *(
        "model.safetensors a pipe",
        "model.safetensors linked to a device",
        "model.safetensors linked to itself",
    ),
    *("model.safetensors missing", "config.json LFS pointer", "config.json a folder", "config.json a pipe"),
    *("tokenizer.json empty", "tokenizer.json cut at 0.5", "header of 18446744073709551615 bytes"),
    *("header nested", "shape [4611686018427387904, 4]", "shape [64, 16]", "dtype I32", "dtype F99"),
    *("offsets [4096, 0]", "weight missing", "weight too many", "weight renamed", "weight of another width"),
    *("weights none", "weight of nan", "one value of inf", "weights in int64", "adapter beside"),
    *("pickle of os, protocol 0", "pickle of builtins, protocol 4", "archive of os", "archive of builtins"),
    *(
        "pickle called safetensors",
        "compressed archive",
        "pickle of {'a': {'b': 1}}",
        "bin LFS",
        "bin random",
    ),
    *(
        "index names '../shard.safetensors'",
        "index names '/etc/hostname'",
        "index names 'missing.safetensors'",
    ),
    *("index names 7", "index {}", "num_hidden_layers 1000000", "num_hidden_layers '32'", "hidden_size 0"),
    *("vocab_size 10000000000", "intermediate_size 10000000000", "num_attention_heads 0", "model_type 'x'"),
    *("model_type 'mamba'", "hidden_act 'x'", "rope_parameters {'rope_type': 'x'}", "config [[[[[[[[[[[["),
    *("config in UTF-16", "generation_config {", 'generation_config {"eos_token_id": "x"}'),
    *("tokenizer model None", "tokenizer nested", "ids huge", "tokenizer_config eos_token None"),
    *("tokenizer_config model_max_length 'x'", "tokenizer_config chat_template 7", "tokenizer_config []"),
)
LOADED = (
    *(
        "pytorch_model.bin",
        "no metadata",
        "weights in float16",
        "code AutoModelForCausalLM",
        "code AutoConfig",
    ),
    *(
        "custom generation",
        "code of a tokenizer",
        "code of a class",
        "tokenizer_config tokenizer_class 'os.system'",
    ),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_backbone(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def _named() -> dict[str, Mutation]:
    found: dict[str, Mutation] = {}
    for name, mutation in mutations():
        found.setdefault(name, mutation)
    return found


MUTATIONS = _named()


def test_there_are_enough_mutations() -> None:
    assert len(MUTATIONS) >= 80


@pytest.mark.parametrize("name", FAST)
def test_refused_in_one_line(tiny: Path, tmp_path: Path, name: str) -> None:
    outcome, message = mutated(tiny, tmp_path, MUTATIONS[name])
    assert outcome == "refused", message
    assert "FOLDER" in message


@pytest.mark.parametrize("name", LOADED)
def test_loaded_without_running_code(tiny: Path, tmp_path: Path, name: str) -> None:
    assert mutated(tiny, tmp_path, MUTATIONS[name]) == ("loaded", "")


def load(folder: Path, **config: Any) -> Backbone:
    return Backbone(BackboneConfig(name=str(folder), **config))


def resave(folder: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_missing_weights_are_named_and_counted(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.3.self_attn.q_proj.weight"):
        del state[name]
    resave(copy, state)
    with pytest.raises(UserError) as caught:
        load(copy)
    assert str(caught.value) == (
        f"backbone '{copy}': its files lack weight model.layers.1.mlp.up_proj.weight and 1 more"
    )


def test_sizes_per_layer_are_no_counts_of_layers(tmp_path: Path) -> None:
    values = {"model_type": "gemma3n_text", "vocab_size_per_layer_input": 262_144, "num_hidden_layers": 30}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    assert vocabulary_size(BackboneConfig(str(tmp_path))) == 262_400


def test_weights_beyond_the_configuration_are_named(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = 3
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"its files have weight model\.layers\.3\.\S+ and \d more that its conf"
    ):
        load(copy)


def test_weight_of_another_shape_is_named(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    state["model.layers.2.mlp.up_proj.weight"] = state["model.layers.2.mlp.up_proj.weight"][:-1].clone()
    resave(copy, state)
    with pytest.raises(
        UserError, match=r"have the wrong shape for weight model\.layers\.2\.mlp\.up_proj\.weight$"
    ):
        load(copy)


def test_buffers_that_older_versions_stored_are_fine(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()  # tied
    resave(copy, state)
    assert load(copy).num_layers == 4


def test_link_to_a_file_is_followed_as_in_the_hubs_cache(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(tmp_path / "blob")
    (copy / "model.safetensors").symlink_to(tmp_path / "blob")
    assert load(copy).num_layers == 4


def test_refusal_prints_no_table(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = load_file(copy / "model.safetensors")
    del state["model.norm.weight"]
    resave(copy, state)
    capfd.readouterr()
    with pytest.raises(UserError, match=r"lack weight model\.norm\.weight$"):
        load(copy)
    assert "MISSING" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "content",
    [
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62) + b"\xff" * 200,
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 2**63) + b"x" * 50,
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"not GGUF at all",
    ],
)
def test_damaged_gguf_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    config = BackboneConfig(name=str(tmp_path), gguf_file="model.gguf")
    for read in (load_tokenizer, Backbone):
        with pytest.raises(UserError) as caught:
            read(config)
        assert len(str(caught.value).splitlines()) == 1


# --- token ids ------------------------------------------------------------------------------------


def test_padding_token_beyond_the_embedding_is_replaced(copy: Path) -> None:
    config = BackboneConfig(name=str(copy))
    tokenizer = load_tokenizer(config)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == vocabulary_size(config)
    tokenizer.save_pretrained(copy)
    reread = load_tokenizer(config)
    assert reread.pad_token_id == reread.eos_token_id < vocabulary_size(config)


def test_end_token_beyond_the_embedding_is_refused(copy: Path) -> None:
    config = BackboneConfig(name=str(copy))
    tokenizer = load_tokenizer(config)
    tokenizer.add_special_tokens({"eos_token": "[END]"})
    tokenizer.save_pretrained(copy)
    with pytest.raises(
        UserError, match=rf"ends texts with token {vocabulary_size(config)}, but the model has"
    ):
        load_tokenizer(config)


def test_token_of_a_text_beyond_the_embedding_is_refused(copy: Path) -> None:
    from promptstage.datamodules.generated import Generated

    config = BackboneConfig(name=str(copy))
    tokenizer = load_tokenizer(config)
    tokenizer.add_tokens(["Compute"])
    tokenizer.save_pretrained(copy)
    data = connected(Generated(task="addition", test_size=2, template="Compute {question}"), config)
    with pytest.raises(UserError, match=r"has token 262 \('Compute'\), but the backbone .* for 262 tokens$"):
        data.setup("test")


# --- the boundary ---------------------------------------------------------------------------------


def test_endless_reading_is_stopped() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    message = r"'x' cannot be loaded: reading it takes more than 0.1 s"
    with pytest.raises(UserError, match=message), reading("x", seconds=0.1):
        sum(endless())


def test_deadline_within_a_deadline_is_the_outer_one() -> None:
    def wait() -> None:
        with deadline(0.01):  # the limit of 0.2 s holds, not this one
            while time.monotonic() < started + 60:
                pass

    started = time.monotonic()
    with pytest.raises(UserError, match=r"takes more than 0\.2 s"), reading("x", seconds=0.2):
        wait()


def test_any_error_becomes_one_printable_line() -> None:
    class Panic(BaseException):
        pass

    for error in (Panic("a\nb"), KeyError("x"), RecursionError(), ValueError("\x1b[31m" + "y" * 999)):
        with pytest.raises(UserError) as caught, reading("x", "tokenizer"):
            raise error
        assert str(caught.value).startswith("tokenizer of backbone 'x' cannot be loaded: ")
        assert str(caught.value).isprintable()
        assert len(reason(error)) <= 300


def test_interrupt_stays_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), reading("x"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_experts_implementation"])
@pytest.mark.parametrize("value", ["someone/kernels", "flex_attention", {"": "someone/kernels"}])
def test_a_file_does_not_choose_kernels(key: str, value: Any, tmp_path: Path) -> None:
    """With the package ``kernels`` transformers would fetch and run those of a hub id."""
    folder = save_tiny_backbone(tmp_path / "tiny", layers=1)
    file = folder / "config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | {key: value}), encoding="utf-8")
    model = load(folder).model
    assert model.config._attn_implementation == IMPLEMENTATION
    assert "/" not in str(model.config._experts_implementation)

"""Backbones of the Hugging Face hub, from a server on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from promptstage.lightning_modules.backbone import hub as downloads
from promptstage.lightning_modules.backbone.attention import register
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer, read_config
from promptstage.lightning_modules.backbone.model_loading import load_model
from promptstage.utilities.errors import UserError
from tests.hub import Hub, serve
from tests.tiny_folder import save_tiny_backbone
from tests.tiny_gguf import make_model, save_gguf

NAME = "someone/tiny"
CACHED = (
    downloads.configuration_folder,
    downloads.bare_configuration_folder,
    downloads.gguf_folder,
    downloads.download_weights,
)


register()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with files of other kinds beside its weights."""
    folder = save_tiny_backbone(tmp_path / "tiny")
    for other in (
        "pytorch_model.bin",
        "consolidated.safetensors",
        "tf_model.h5",
        "modeling_tiny.py",
        "README.md",
    ):
        (folder / other).write_bytes(b"not read")
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for function in CACHED:
        function.cache_clear()
    with serve(folder, NAME) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server
    for function in CACHED:
        function.cache_clear()


def message(config: BackboneConfig) -> str:
    with pytest.raises(UserError) as error:
        load_model(config)
    return str(error.value)


def test_the_configuration_alone(hub: Hub) -> None:
    assert read_config(BackboneConfig(NAME)).model_type == "llama"
    assert hub.downloads == ["config.json"]


def test_the_first_load_downloads_what_is_read(hub: Hub, folder: Path) -> None:
    tokenizer = load_tokenizer(BackboneConfig(NAME))
    assert "model.safetensors" not in hub.downloads
    model = load_model(BackboneConfig(NAME)).model
    assert sorted(hub.downloads) == [
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
        "tokenizer_config.json",
    ]
    here = load_model(BackboneConfig(str(folder))).model
    ids = tokenizer("1 + 1", return_tensors="pt")["input_ids"]
    assert torch.equal(model.get_input_embeddings()(ids), here.get_input_embeddings()(ids))


def test_a_cached_backbone_needs_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model(BackboneConfig(NAME))
    before = list(hub.downloads)
    for function in CACHED:
        function.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_model(BackboneConfig(NAME))
    assert hub.downloads == before


def test_an_interrupted_download_is_continued(hub: Hub) -> None:
    load_tokenizer(BackboneConfig(NAME))
    downloads.configuration_folder.cache_clear()
    load_model(BackboneConfig(NAME))
    assert hub.downloads.count("config.json") == 1
    assert hub.downloads.count("model.safetensors") == 1


def test_shards_are_those_of_the_index(hub: Hub, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    from safetensors import safe_open

    with safe_open(folder / "model-00001-of-00001.safetensors", "pt") as file:
        names = list(file.keys())
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"of something else")
    load_model(BackboneConfig(NAME))
    assert "model-00001-of-00001.safetensors" in hub.downloads
    assert "model-00002-of-00002.safetensors" not in hub.downloads


def test_an_adapter_is_refused_before_its_weights_are_downloaded(hub: Hub, folder: Path) -> None:
    (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "other/model"}', encoding="utf-8"
    )
    assert "holds a PEFT adapter" in message(BackboneConfig(NAME))
    assert "model.safetensors" not in hub.downloads


def test_an_index_names_no_other_folder(hub: Hub, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../../config.json"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "which is not in its folder" in message(BackboneConfig(NAME))


def test_one_gguf_file_of_several(hub: Hub, folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    for name in ("tiny-q4.gguf", "tiny-q8.gguf"):
        save_gguf(folder / name, make_model("gemma3"))
    config = BackboneConfig(NAME, gguf_file="tiny-q8.gguf")
    assert read_config(config).model_type == "gemma3_text"
    assert load_tokenizer(config).eos_token == "<eos>"
    assert load_model(config).model.dtype == torch.float32
    assert hub.downloads == ["tiny-q8.gguf"]
    for other in ("tiny-q5.gguf", "*.gguf"):
        assert message(BackboneConfig(NAME, gguf_file=other)) == (
            f"backbone.gguf_file '{other}' is not in the top folder of '{NAME}' on the hub"
        )
    assert hub.downloads == ["tiny-q8.gguf"]


def test_mistakes_are_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert message(BackboneConfig("someone/other")).startswith(
        "backbone 'someone/other' is neither a folder nor"
    )
    assert (
        message(BackboneConfig(NAME, revision="v9")) == f"backbone '{NAME}' has no revision 'v9' on the hub"
    )
    assert "cannot be downloaded: " in message(BackboneConfig("a/b/c"))
    hub.restricted = True
    assert "access is restricted" in message(BackboneConfig(NAME))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the hub cannot be reached" in message(BackboneConfig("someone/third"))

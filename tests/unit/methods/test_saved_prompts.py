"""Prompts saved to a folder, and loaded from a folder, a checkpoint or a run without a trainer."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from promptstage.datamodules.generated import Generated
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.checkpoints import PromptCheckpointIO
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.functional.partition import from_starts
from promptstage.lightning_modules.initialization import PromptInit
from promptstage.lightning_modules.lora import LoRA
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prefix_tuning import PrefixTuning
from promptstage.lightning_modules.pretrained import Pretrained
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.lightning_modules.saved_prompts import checkpoint_in, load_prompt
from promptstage.lightning_modules.stages import StageSearch, of_backbone
from promptstage.lightning_modules.text_settings import TextSettings, text_settings_of
from promptstage.utilities.errors import UserError
from tests.tiny_folder import save_tiny_backbone

IDS = torch.arange(4, 20)[None]
CASES: dict[str, tuple[type[SoftPromptModule], dict[str, Any]]] = {
    "pretrained": (Pretrained, {"val_generations": 3}),
    "prompt": (PromptTuning, {"num_virtual_tokens": 5, "init": PromptInit("text", "Think")}),
    "late": (PromptTuning, {"num_virtual_tokens": 5, "insert_at": 2}),
    "prompt with MLP": (PromptTuning, {"num_virtual_tokens": 5, "mlp_width": 8}),
    "prompt after BOS": (PromptTuning, {"num_virtual_tokens": 5, "bos_first": True}),
    "visible prompt": (PromptTuning, {"num_virtual_tokens": 5, "visible_from": 1, "visible_until": 3}),
    "prefix": (PrefixTuning, {"num_virtual_tokens": 4, "init": PromptInit("random")}),
    "prefix with MLP": (PrefixTuning, {"num_virtual_tokens": 4, "mlp_width": 8, "visible_until": 2}),
    "DHAM": (DHAM, {"num_virtual_tokens": 7, "partition": [0, 1, 3]}),
    "DHAM with gates": (DHAM, {"num_virtual_tokens": 7, "partition": "uniform", "gate": True}),
    "replacing DHAM": (DHAM, {"num_virtual_tokens": 7, "partition": [0, 2], "mode": "replace"}),
    "DHAM after BOS": (DHAM, {"num_virtual_tokens": 7, "partition": "single", "bos_first": True}),
    "LoRA": (LoRA, {"rank": 2, "alpha": 8, "target_modules": ["q_proj"]}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_backbone(tmp_path_factory.mktemp("backbones") / "tiny")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return Backbone(str(folder))


def trained(name: str, backbone: Backbone, seed: int = 1) -> SoftPromptModule:
    """A method away from its starting values."""
    cls, arguments = CASES[name]
    module = cls(backbone, **arguments)
    module.create_prompts()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.trained_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return module


@torch.no_grad()
def logits(module: SoftPromptModule) -> Tensor:
    return module.backbone(IDS, module.prefix())


def as_checkpoint(module: SoftPromptModule, path: Path) -> Path:
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    PromptCheckpointIO().save_checkpoint(checkpoint, path)
    return path


def assert_same(loaded: SoftPromptModule, module: SoftPromptModule) -> None:
    assert type(loaded) is type(module)
    state, expected = loaded.state_dict(), module.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert torch.equal(logits(loaded), logits(module))
    assert loaded.constructor_arguments == module.constructor_arguments
    assert loaded.text_settings == module.text_settings
    assert not loaded.training


@pytest.mark.parametrize("source", ["folder", "checkpoint", "run"])
@pytest.mark.parametrize("name", CASES)
def test_a_loaded_prompt_is_the_saved_one(name: str, source: str, backbone: Backbone, tmp_path: Path) -> None:
    module = trained(name, backbone)
    module.text_settings = TextSettings("gsm8k", "cot", None, ("\n\n", "Q:"), 17)
    path = tmp_path / "prompt"
    if source == "folder":
        module.save(path)
        assert sorted(os.listdir(path)) == ["prompt.json", "prompt.safetensors"]
    else:
        file = as_checkpoint(module, path / "checkpoints" / "last.ckpt")
        path = file if source == "checkpoint" else path
    assert_same(load_prompt(path, backbone), module)
    assert_same(type(module).load_from_checkpoint(path, backbone=backbone), module)


def test_the_stored_backbone_is_loaded(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    module = trained("DHAM", backbone)
    module.save(tmp_path / "prompt")
    loaded = load_prompt(tmp_path / "prompt")
    assert loaded.backbone is not backbone
    assert loaded.backbone_config == BackboneConfig(str(folder))
    assert_same(loaded, module)


def test_a_run_folder_gives_its_best_checkpoint(backbone: Backbone, tmp_path: Path) -> None:
    best, last = trained("prompt", backbone, seed=1), trained("prompt", backbone, seed=2)
    as_checkpoint(best, tmp_path / "checkpoints" / "best.ckpt")
    as_checkpoint(last, tmp_path / "checkpoints" / "last.ckpt")
    assert_same(load_prompt(tmp_path, backbone), best)
    assert checkpoint_in(tmp_path) == tmp_path / "checkpoints" / "best.ckpt"
    assert checkpoint_in(tmp_path, newest=True) == tmp_path / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("source", ["folder", "checkpoint"])
def test_stages_that_were_searched_are_loaded(source: str, backbone: Backbone, tmp_path: Path) -> None:
    search = StageSearch(examples=8, max_stages=3)
    module = DHAM(backbone, num_virtual_tokens=6, partition="cka", search=search)
    module.set_stages(of_backbone(from_starts([0, 1, 3], 4, "cka", "of a test"), backbone))
    module.create_prompts()
    path = tmp_path / "prompt"
    if source == "folder":
        module.save(path)
    else:
        as_checkpoint(module, path)
    loaded = DHAM.load_from_checkpoint(path, backbone=backbone)
    assert loaded.stages == module.stages
    assert_same(loaded, module)


def test_loading_draws_no_random_numbers_of_the_caller(backbone: Backbone, tmp_path: Path) -> None:
    trained("prefix with MLP", backbone).save(tmp_path / "prompt")
    before = torch.get_rng_state()
    load_prompt(tmp_path / "prompt", backbone)
    assert torch.equal(torch.get_rng_state(), before)


def test_given_arguments_replace_stored_ones(backbone: Backbone, tmp_path: Path) -> None:
    trained("prompt", backbone).save(tmp_path / "prompt")
    optimizer = OptimizerConfig(lr=0.5)
    path = tmp_path / "prompt"
    loaded = PromptTuning.load_from_checkpoint(path, backbone=backbone, optimizer=optimizer)
    assert loaded.optimizer_config == optimizer
    assert loaded.num_virtual_tokens == 5


def test_a_changed_optimizer_is_stored(backbone: Backbone, tmp_path: Path) -> None:
    module = trained("prompt", backbone)
    module.set_optimizer(OptimizerConfig(lr=0.5))
    module.save(tmp_path / "prompt")
    assert load_prompt(tmp_path / "prompt", backbone).optimizer_config == OptimizerConfig(lr=0.5)


class OwnMethod(PromptTuning):
    """A method outside the project."""

    def __init__(self, backbone: BackboneConfig = BackboneConfig(), *, note: str, lengths: tuple[int, ...]):
        super().__init__(backbone, num_virtual_tokens=sum(lengths))
        self.note = note


def test_a_custom_method_is_loaded_by_its_class(backbone: Backbone, tmp_path: Path) -> None:
    module = OwnMethod(backbone, note="mine", lengths=(2, 3))
    module.save(tmp_path / "prompt")
    loaded = OwnMethod.load_from_checkpoint(tmp_path / "prompt", backbone=backbone)
    assert_same(loaded, module)
    assert loaded.note == "mine"
    with pytest.raises(UserError, match=r"^[^\n]*OwnMethod, which is not one of promptstage's[^\n]*$"):
        load_prompt(tmp_path / "prompt", backbone)


def test_arguments_must_be_plain_values_to_be_saved(backbone: Backbone, tmp_path: Path) -> None:
    module = OwnMethod(backbone, note=object(), lengths=(2, 3))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^OwnMethod cannot be saved: its arguments must be plain values$"):
        module.save(tmp_path / "prompt")
    path = as_checkpoint(module, tmp_path / "last.ckpt")  # a fit goes on
    with pytest.raises(UserError, match=r"^[^\n]*does not hold the arguments of OwnMethod[^\n]*$"):
        OwnMethod.load_from_checkpoint(path, backbone=backbone)
    loaded = OwnMethod.load_from_checkpoint(path, backbone=backbone, note="again", lengths=(2, 3))
    assert torch.equal(logits(loaded), logits(module))


def test_another_method_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    trained("prompt", backbone).save(tmp_path / "prompt")
    with pytest.raises(UserError, match=r"^[^\n]*method must be DHAM, got PromptTuning$"):
        DHAM.load_from_checkpoint(tmp_path / "prompt", backbone=backbone)


def test_another_backbone_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    trained("prompt", backbone).save(tmp_path / "prompt")
    other = Backbone(str(save_tiny_backbone(tmp_path / "other", layers=5)))
    with pytest.raises(UserError, match=r"^prompt folder [^\n]*: the checkpoint belongs to backbone [^\n]*$"):
        load_prompt(tmp_path / "prompt", other)


# --- fit with a plain trainer -------------------------------------------------------------------------


def test_a_prompt_of_a_plain_trainer_is_saved_and_loaded(backbone: Backbone, tmp_path: Path) -> None:
    data = Generated(
        task="last_letter",
        train_size=8,
        validation_size=2,
        max_new_tokens=4,
        template="Q: {question}\nA:",
    )
    prompt = DHAM(backbone, num_virtual_tokens=6, partition="uniform", val_generations=0)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(prompt, data)
    prompt.eval()
    settings = TextSettings("last_letter", "Q: {question}\nA:", None, ("\nQuestion:",), 4)
    assert prompt.text_settings == settings
    prompt.save(tmp_path / "prompt")
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.ckpt")
    for path in (tmp_path / "prompt", checkpoint):
        loaded = load_prompt(path, backbone)
        assert_same(loaded, prompt)
        # A loaded prompt is evaluated like any other.
        again = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        (results,) = again.validate(loaded, data, verbose=False)
        assert results["val/loss"] == pytest.approx(trainer.callback_metrics["val/loss"].item())


def test_chat_templates_keep_the_date_of_the_fit() -> None:
    data = Generated(task="last_letter", template="chat", date="2026-01-31")
    module = PromptTuning()
    assert module.text_settings == TextSettings(None, "plain", None, ("\nQuestion:",), 400)
    settings = text_settings_of(data)
    assert settings is not None
    assert (settings.template, settings.date) == ("chat", "2026-01-31")
    undated = text_settings_of(Generated(task="last_letter", template="chat"))
    assert undated is not None
    assert undated.date is not None
    assert text_settings_of(L.LightningDataModule()) is None


# --- folders that exist -------------------------------------------------------------------------------


def test_the_same_prompt_may_be_saved_again(backbone: Backbone, tmp_path: Path) -> None:
    module = trained("prompt", backbone)
    module.save(tmp_path / "prompt")
    before = {file.name: file.read_bytes() for file in (tmp_path / "prompt").iterdir()}
    module.save(tmp_path / "prompt")
    (tmp_path / "prompt" / "prompt.json").unlink()  # a save that was interrupted
    module.save(tmp_path / "prompt")
    assert {file.name: file.read_bytes() for file in (tmp_path / "prompt").iterdir()} == before


@pytest.mark.parametrize("part", ["both", "prompt.safetensors", "prompt.json"])
def test_another_prompt_is_not_overwritten(part: str, backbone: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "prompt"
    trained("prompt", backbone, seed=1).save(folder)
    for file in list(folder.iterdir()):
        if part not in ("both", file.name):
            file.unlink()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match=r"^folder [^\n]* already has another prompt: save to a new folder$"):
        trained("prompt", backbone, seed=2).save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_failing_write_leaves_no_complete_folder(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise UserError("disk full")

    module = trained("prompt", backbone)
    with monkeypatch.context() as patch:
        patch.setattr("promptstage.lightning_modules.saved_prompts.write_text", fail)
        with pytest.raises(UserError, match="disk full"):
            module.save(tmp_path / "prompt")
    with pytest.raises(UserError, match=r"^folder [^\n]* has no prompt.json and no checkpoints$"):
        load_prompt(tmp_path / "prompt", backbone)
    module.save(tmp_path / "prompt")
    assert_same(load_prompt(tmp_path / "prompt", backbone), module)


# --- damaged and hostile folders ----------------------------------------------------------------------


def assert_refused(path: Path, backbone: Backbone, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_prompt(path, backbone)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def saved(backbone: Backbone, tmp_path: Path) -> Path:
    trained("DHAM with gates", backbone).save(tmp_path / "prompt")
    return tmp_path / "prompt"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("format",), 2, "has format 2, this version reads format 1"),
        (("format",), "1", "field 'format'"),
        (("method",), "subprocess.Popen", "is of method subprocess.Popen, which is not one of promptstage's"),
        (("method",), "PromptTuning", "PromptTuning has no argument 'partition'"),
        (("method",), None, "field 'method'"),
        (("arguments",), None, "does not hold the arguments of DHAM"),
        (("arguments",), [], "field 'arguments'"),
        (("arguments", "num_virtual_tokens"), "7", "argument 'num_virtual_tokens'"),
        (("arguments", "num_virtual_tokens"), 8, "prompts.3 is (1, 32) there"),
        (("arguments", "num_virtual_tokens"), 10**12, "num_virtual_tokens must be <= 228"),
        (("arguments", "gate"), 1, "argument 'gate'"),
        (("arguments", "mode"), "replcae", "Input should be 'accumulate' or 'replace'"),
        (("arguments", "init"), {"kind": "evil"}, "argument 'init'"),
        (("arguments", "optimizer", "lr"), -1, "optimizer lr must be > 0"),
        (("arguments", "stranger"), 1, "DHAM has no argument 'stranger'"),
        (("arguments", "backbone"), {"class_path": "os.system"}, "DHAM has no argument 'backbone'"),
        (("backbone",), {}, "it has no name"),
        (("fingerprint",), "0", "belongs to backbone"),
        (("structure",), {"stages": "0"}, "stages must be 0 as in the checkpoint, got"),
        (("text", "max_new_tokens"), 0, "max_new_tokens must be >= 1, got 0"),
        (("text", "stop"), [""], "stop holds an empty text"),
        (("text", "template"), "none", "template 'none' is unknown"),
        (("text", "date"), "today", "date must be in the form"),
        (("entries",), [], "field 'entries' is invalid"),
        (("entries", "state_dict"), {}, "field 'entries' is invalid"),
        (("entries", "partition"), {}, "the checkpoint's partition is not a partition"),
        (("entries", "partition_source"), 3, "partition_source"),
        (("sha256",), "0", "prompt.safetensors is damaged"),
        (("stranger",), 1, "must have the fields"),
    ],
    ids=str,
)
def test_a_changed_description_is_refused(
    saved: Path, backbone: Backbone, path: tuple[str, ...], value: Any, words: str
) -> None:
    values = json.loads((saved / "prompt.json").read_text(encoding="utf-8"))
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    (saved / "prompt.json").write_text(json.dumps(values), encoding="utf-8")
    assert_refused(saved, backbone, words)


@pytest.mark.parametrize("name", ["prompt.json", "prompt.safetensors"])
@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "noise", "folder"])
def test_a_damaged_file_is_refused(saved: Path, backbone: Backbone, name: str, kind: str) -> None:
    file = saved / name
    content = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        cut = content[: len(content) // 2]
        file.write_bytes({"empty": b"", "cut": cut, "noise": os.urandom(300)}[kind])
    assert_refused(saved, backbone, "prompt.json" if name == "prompt.json" else name)


def test_tensors_of_another_prompt_are_refused(saved: Path, backbone: Backbone, tmp_path: Path) -> None:
    trained("DHAM with gates", backbone, seed=2).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "prompt.safetensors", saved)
    assert_refused(saved, backbone, "prompt.safetensors is damaged: its digest is not that in")


def test_code_of_a_stored_backbone_is_not_run(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (saved / "prompt.json").read_text(encoding="utf-8")
    (saved / "prompt.json").write_text(text.replace('remote_code": false', 'remote_code": true'), "utf-8")
    seen: list[bool] = []
    monkeypatch.setattr(
        Backbone, "__init__", lambda self, config: seen.append(config.trust_remote_code) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        load_prompt(saved)
    assert seen == [False]


def test_other_paths_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    assert_refused(tmp_path, backbone, "has no prompt.json and no checkpoints")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert_refused(tmp_path / "run", backbone, "has no checkpoints/best.ckpt or checkpoints/last.ckpt")
    assert_refused(tmp_path / "none", backbone, "does not exist")
    (tmp_path / "noise").write_bytes(b"PK\x03\x04 noise")
    assert_refused(tmp_path / "noise", backbone, "truncated or not a checkpoint")

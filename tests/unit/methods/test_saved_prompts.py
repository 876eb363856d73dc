"""Prompts saved to a folder, and loaded from a folder, a checkpoint or a run without a trainer."""

import os
from pathlib import Path

import lightning as L
import pytest
import torch

from promptstage.datamodules.generated import Generated
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.functional.partition import from_starts
from promptstage.lightning_modules.optimization import OptimizerConfig
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.lightning_modules.saved_prompts import checkpoint_in, load_prompt
from promptstage.lightning_modules.stages import StageSearch, of_backbone
from promptstage.lightning_modules.text_settings import TextSettings, text_settings_of
from promptstage.utilities.errors import UserError
from tests.tiny_folder import save_tiny_backbone
from tests.unit.backbone.tiny import random_model
from tests.unit.methods.prompts import CASES, as_checkpoint, assert_same, backbone, folder, logits, trained

__all__ = ["backbone", "folder"]  # fixtures


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


@pytest.mark.parametrize("source", ["folder", "checkpoint"])
@pytest.mark.parametrize("name", ["prefix", "prefix with MLP"])
@pytest.mark.parametrize("family", ["gemma4", "deepseek_v3"])
def test_a_prefix_of_tensors_of_different_shapes(family: str, name: str, source: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    folder = save_tiny_backbone(tmp_path / "backbone")
    size = AutoConfig.from_pretrained(folder).vocab_size
    sizes = {"vocab_size": size, "vocab_size_per_layer_input": size, "experts_implementation": None}
    random_model(family, "eager", torch.float32, **sizes).save_pretrained(folder)
    backbone = Backbone(str(folder))
    module = trained(name, backbone)
    path = tmp_path / "prompt"
    if source == "folder":
        module.save(path)
    else:
        path = as_checkpoint(module, path / "checkpoints" / "last.ckpt")
    assert_same(load_prompt(path, backbone), module)


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

"""Methods and data sets in a plain Lightning trainer: tokenizer and stages come from the module."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from promptstage.callbacks.partition.callback import CKAPartition
from promptstage.datamodules.generated import Generated
from promptstage.lightning_modules import dham as dham_module
from promptstage.lightning_modules import stage_search
from promptstage.lightning_modules.backbone.loading import BackboneConfig, load_tokenizer
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.lightning_modules.stages import StageSearch
from promptstage.utilities.errors import UserError
from tests.tiny_folder import save_tiny_backbone

SEARCH = StageSearch(min_stages=2, max_stages=3, examples=12, resamples=10)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneConfig:
    """A tiny backbone with the embedded backbone's tokenizer, whose end token is another one."""
    folder = save_tiny_backbone(tmp_path_factory.mktemp("tiny") / "tiny")
    tokenizer = load_tokenizer(BackboneConfig(str(folder)))
    tokenizer.eos_token = "7"
    tokenizer.save_pretrained(folder)
    return BackboneConfig(str(folder))


def data(**options: Any) -> Generated:
    return Generated(task="addition", train_size=16, validation_size=4, test_size=4, **options)


def trainer(steps: int = 1, **options: Any) -> L.Trainer:
    return L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def dham(backbone: BackboneConfig, **options: Any) -> DHAM:
    return DHAM(backbone, num_virtual_tokens=6, search=SEARCH, val_generations=0, **options)


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("stages were searched for")

    monkeypatch.setattr(stage_search, "probe_features", fail)


def test_dham_searches_for_its_stages(
    backbone: BackboneConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = dham(backbone)
    with caplog.at_level(logging.INFO):
        trainer().fit(module, data())
    assert module.stages is not None
    assert len(module.prompts) == len(module.stages.stages) in (2, 3)
    assert (module.stages.method, module.stages.data, module.stages.examples) == ("cka", "addition", 12)
    lines = {message for message in caplog.messages if message.startswith("partition (")}
    assert len(lines) == 1
    assert f"layers {module.stages}" in lines.pop()
    # The callback writes the same partition.
    again = dham(backbone)
    trainer(callbacks=[CKAPartition(tmp_path)]).fit(again, data())
    assert again.stages == module.stages
    assert (tmp_path / "partition.json").is_file()
    assert len(list(tmp_path.glob("partition_*.png"))) == 4


@pytest.mark.usefixtures("no_search")
@pytest.mark.parametrize("partition", ["uniform", "single", [0, 2]], ids=str)
def test_given_stages_need_no_search(
    partition: str | list[int], backbone: BackboneConfig, caplog: pytest.LogCaptureFixture
) -> None:
    module = dham(backbone, partition=partition)
    with caplog.at_level(logging.INFO):
        trainer().fit(module, data())
    assert any(message.startswith("partition (") for message in caplog.messages)


def test_a_resumed_fit_has_the_stages_of_its_checkpoint(
    backbone: BackboneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dham(backbone)
    fit = trainer()
    fit.fit(first, data())
    fit.save_checkpoint(tmp_path / "first.ckpt")
    assert first.stages is not None
    uniform = dham(backbone, partition="uniform").find_stages(fit)
    assert uniform.starts != first.stages.starts
    monkeypatch.setattr(dham_module, "search_stages", lambda *args: uniform)
    other = dham(backbone)
    trainer(2).fit(other, data(), ckpt_path=tmp_path / "first.ckpt")
    assert other.stages == first.stages
    assert [prompt.shape for prompt in other.prompts] == [prompt.shape for prompt in first.prompts]


def test_a_search_needs_a_data_module(backbone: BackboneConfig) -> None:
    with pytest.raises(UserError, match=r"^partition 'cka' draws its probe set from a prompt"):
        trainer().fit(dham(backbone), DataLoader([0]))


def test_data_take_the_tokenizer_of_the_module(backbone: BackboneConfig) -> None:
    """One data module with two modules in turn has the tokens of each one's own tokenizer."""
    generated = data()
    for config in (backbone, BackboneConfig(), backbone):
        module: SoftPromptModule = PromptTuning(config, num_virtual_tokens=4, val_generations=0)
        trainer().fit(module, generated)
        assert generated.tokenizer is module.tokenizer
        batch = next(iter(generated.val_dataloader()))
        last = batch.gold.input_ids.gather(1, batch.gold.rationale[:, 1:])
        assert (last == load_tokenizer(config).eos_token_id).all()
        assert (module.tokenizer.eos_token == "7") == (config is backbone)


def test_data_without_a_tokenizer_say_what_to_do() -> None:
    generated = data()
    with pytest.raises(UserError, match=r"^Generated has no tokenizer: call connect\(token"):
        generated.setup("test")
    generated.connect(load_tokenizer(BackboneConfig()))
    generated.setup("test")
    assert len(next(iter(generated.test_dataloader()))) == 4


def test_another_tokenizer_discards_the_tokens(backbone: BackboneConfig) -> None:
    generated = data()
    ends = []
    for config in (BackboneConfig(), backbone):
        tokenizer = load_tokenizer(config)
        generated.connect(tokenizer)
        generated.setup("validate")
        batch = next(iter(generated.val_dataloader()))
        ends.append(batch.gold.input_ids[torch.arange(4), batch.gold.rationale[:, 1]].tolist())
        assert ends[-1] == [tokenizer.eos_token_id] * 4
    assert ends[0] != ends[1]

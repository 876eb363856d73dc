"""Prediction over label words: one forward pass for a padded batch, through any method."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

import promptstage as ps
from promptstage.datamodules.encoding import Batch, join
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.decoding.engines import Greedy, Sampling
from promptstage.lightning_modules.decoding.label_words import LabelWordPrediction, prompt_logits
from promptstage.utilities.errors import UserError
from tests.unit.methods.prompts import CASES, backbone, folder, trained

__all__ = ["backbone", "folder"]  # fixtures
WORDS = ["bad", "good", "mixed"]


@pytest.fixture
def source(tmp_path: Path) -> str:
    for split, count in (("train", 18), ("validation", 6), ("test", 11)):
        rows = [{"text": f"{split} {'a' * (i * i % 7)}{i}", "label": i % 3} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path)


def data_of(source: str, **options: Any) -> ps.Classification:
    given = {"template": "Text: {question}\nLabel: ", "demonstrations_per_class": 1, "eval_batch_size": 4}
    return ps.Classification(source=source, label_words=WORDS, **(given | options))


def trainer_of(**options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(accelerator="cpu", enable_model_summary=False, **(quiet | options))


def batches(module: SoftPromptModule, data: ps.Classification) -> list[Batch]:
    data.connect(module.tokenizer)
    data.setup("test")
    loader = data.test_dataloader()
    if getattr(module, "bos_first", False):
        from dataclasses import replace

        loader.collate = replace(loader.collate, omitted=module.tokenizer.bos_token_id)
    return list(loader)


def slow_class(module: SoftPromptModule, batch: Batch, row: int) -> int:
    """The class by one forward pass over one prompt without padding."""
    ids = batch.prompt.input_ids[row][batch.prompt.attention_mask[row].bool()]
    with torch.no_grad():
        last = module.backbone(ids[None], module.prefix())[0, -1].double().numpy()
    assert batch.classes is not None
    allowed = batch.classes.allowed[row].tolist()
    own = [
        last[token] if ok else -np.inf
        for token, ok in zip(batch.classes.tokens.tolist(), allowed, strict=True)
    ]
    return int(np.argmax(own))


@pytest.mark.parametrize("name", CASES)
def test_predictions_are_those_of_single_forward_passes(
    name: str, backbone: ps.Backbone, source: str
) -> None:
    module = trained(name, backbone)
    decoder = LabelWordPrediction()
    decoder.begin(module)
    parts = batches(module, data_of(source))
    with torch.no_grad():
        split = [record for batch in parts for record in decoder.generate(batch)]
        whole = {record.id: record for record in decoder.generate(join(parts))}
        logits = torch.cat([prompt_logits(module, batch) for batch in parts])
        torch.testing.assert_close(logits, prompt_logits(module, join(parts)), rtol=1e-4, atol=1e-5)
    assert len(split) == 11
    slow = {e.id: slow_class(module, batch, row) for batch in parts for row, e in enumerate(batch.examples)}
    for record in split:
        assert record == whole[record.id]
        assert record.generation == record.prediction == WORDS[slow[record.id]]
        assert record.correct == (record.reference == record.prediction)
        assert (record.reason, record.new_tokens, record.kind) == ("label word", 1, "text")


def test_only_allowed_letters_are_predicted(backbone: ps.Backbone, tmp_path: Path) -> None:
    """The model prefers one letter; where a question has fewer options, the best of its own is predicted."""
    rows = [{"q": f"q {i}", "a": "A", "o": ["x", "y", "z"][: 2 + i % 2]} for i in range(12)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ps.Custom(
        source=str(tmp_path),
        question="q",
        answer="a",
        options="o",
        answer_kind="choice",
        prediction="label_words",
        template="{question}\nAnswer: ",
    )
    module = ps.Pretrained(backbone)
    (batch,) = batches(module, data)  # type: ignore[arg-type]
    decoder = LabelWordPrediction()
    decoder.begin(module)
    with torch.no_grad():
        records = decoder.generate(batch)
        logits = prompt_logits(module, batch)
    assert batch.classes is not None
    for row, record in enumerate(records):
        own = logits[row, batch.classes.tokens[: len(record.options or ())]]
        assert record.prediction == "ABC"[int(own.argmax())]
        assert record.kind == "choice"


def test_a_trainer_tests_validates_and_predicts_by_label_words(backbone: ps.Backbone, source: str) -> None:
    module, data = ps.Pretrained(backbone), data_of(source)
    result = trainer_of().test(module, datamodule=data, verbose=False)[0]
    assert isinstance(module.decoder, LabelWordPrediction)
    expected = [
        slow_class(module, batch, row) == batch.classes.gold[row]  # type: ignore[union-attr]
        for batch in batches(module, data_of(source))
        for row in range(len(batch))
    ]
    assert result["test/accuracy"] == pytest.approx(np.mean(expected))
    assert result["test/accuracy_low"] <= result["test/accuracy"] <= result["test/accuracy_high"]
    assert "val/accuracy" in trainer_of().validate(module, datamodule=data_of(source), verbose=False)[0]
    # Other data decode greedily again.
    trainer_of().test(module, datamodule=data_of(source, demonstrations_per_class=0), verbose=False)
    assert isinstance(module.decoder, Greedy)


def test_a_decoder_that_generates_is_rejected(backbone: ps.Backbone, source: str) -> None:
    module = ps.Pretrained(backbone)
    module.decoder = Sampling()
    with pytest.raises(
        UserError, match="decoder Sampling generates, but the data's prediction is label_words"
    ):
        trainer_of().test(module, datamodule=data_of(source), verbose=False)
    trainer_of().test(module, datamodule=data_of(source, prediction="generation"), verbose=False)


def test_batches_without_classes_are_rejected(backbone: ps.Backbone, source: str) -> None:
    module = ps.Pretrained(backbone)
    decoder = LabelWordPrediction()
    decoder.begin(module)
    (batch, *_) = batches(module, data_of(source, demonstrations_per_class=0))
    with pytest.raises(UserError, match=r"has no label words in use: set --data\.prediction label_words"):
        decoder.generate(batch)


def test_broken_logits_are_reported(backbone: ps.Backbone, source: str) -> None:
    module = trained("prompt", backbone)
    with torch.no_grad():
        module.trained_parameters()[0].fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        prompt_logits(module, batches(module, data_of(source))[0])


def test_label_words_are_summarized_without_a_folder(backbone: ps.Backbone, source: str) -> None:
    callback = ps.LabelWords(["extraction"])
    trainer_of(callbacks=[callback]).test(ps.Pretrained(backbone), datamodule=data_of(source), verbose=False)
    assert callback.summary is not None
    assert callback.summary["examples"] == 11
    assert set(callback.summary["extraction"]) == {"one_against_one", "one_against_rest"}


def test_an_attention_budget_without_a_folder_is_rejected(backbone: ps.Backbone, source: str) -> None:
    trainer = trainer_of(callbacks=[ps.AttentionBudget()])
    with pytest.raises(UserError, match="AttentionBudget needs a folder for its files"):
        trainer.test(ps.PromptTuning(backbone, 2), datamodule=data_of(source), verbose=False)

"""Tests of spans, labels and padding, for every kind of template."""

from typing import Any

import pytest
import torch

from promptstage.datamodules import GSM8K, Generated
from promptstage.datamodules.encoding import Batch, Example, Tokens, encode
from promptstage.datamodules.prompt_format import PromptFormat
from promptstage.datamodules.templates import Template
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError
from tests.unit.data.connected import connected
from tests.unit.data.rows import WriteRows, gsm8k_rows

TEMPLATES = ("plain", "cot", "chat", "{question}", "Sum. é Q {question} {x}\nA:\n", "{question} = ")


def make(backbone: BackboneConfig, folder: str, **options: Any) -> GSM8K:
    return connected(GSM8K(source=folder, **options), backbone)


def text(tokens: Tokens, row: int, span: torch.Tensor, tokenizer: Any) -> str:
    start, end = span.tolist()
    return str(tokenizer.decode(tokens.input_ids[row, start:end]))


@pytest.mark.parametrize("template", TEMPLATES)
def test_spans_decode_to_their_texts(backbone: BackboneConfig, write_rows: WriteRows, template: str) -> None:
    rows = gsm8k_rows(9)
    data = make(backbone, write_rows(train=rows, test=rows), template=template, validation_size=2)
    data.setup("fit")
    data.setup("test")
    seen = 0
    for batch in [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]:
        for i, example in enumerate(batch.examples):
            for tokens in (batch.gold, batch.prompt):
                assert text(tokens, i, tokens.question[i], data.tokenizer) == example.question
            assert text(batch.gold, i, batch.gold.rationale[i], data.tokenizer).lstrip() == example.completion
            seen += 1
    assert seen == 18


@pytest.mark.parametrize("template", TEMPLATES)
def test_gold_tokens_are_prompt_completion_and_eos(
    backbone: BackboneConfig, write_rows: WriteRows, template: str
) -> None:
    data = make(backbone, write_rows(test=gsm8k_rows(7)), template=template)
    data.setup("test")
    tokenizer = data.tokenizer
    for batch in data.test_dataloader():
        gold, prompt = batch.gold, batch.prompt
        assert {t.dtype for t in (*vars(gold).values(), *vars(prompt).values())} == {torch.int64}
        width = prompt.input_ids.shape[1]
        assert (prompt.labels == -100).all()
        assert (prompt.rationale == width).all()
        for i in range(len(batch)):
            real = gold.input_ids[i][gold.attention_mask[i].bool()]
            asked = prompt.input_ids[i][prompt.attention_mask[i].bool()]
            start, end = gold.rationale[i].tolist()
            assert start == len(asked)
            assert end == len(real) - 1
            assert torch.equal(real[:start], asked)
            assert real[-1] == tokenizer.eos_token_id
            assert torch.equal(gold.labels[i, start : end + 1], real[start:])
            assert (gold.labels[i, :start] == -100).all()
            assert (gold.labels[i, end + 1 :] == -100).all()
            assert (gold.input_ids[i, len(real) :] == tokenizer.pad_token_id).all()
            assert prompt.attention_mask[i].tolist() == sorted(prompt.attention_mask[i].tolist())


def test_templates_render_as_documented(backbone: BackboneConfig, write_rows: WriteRows) -> None:
    rows = [{"question": "1+1?", "answer": "#### 2"}]
    expected = {
        "plain": "<bos>Question: 1+1?\nAnswer: #### 2<eos>",
        "cot": "<bos>Question: 1+1?\nAnswer: Let's think step by step. #### 2<eos>",
        "chat": "<|user|>\n1+1?\n<|assistant|>\n#### 2<eos>",
        "Q {question}\n": "<bos>Q 1+1?\n#### 2<eos>",
    }
    for template, whole in expected.items():
        data = make(backbone, write_rows(test=rows), template=template)
        data.setup("test")
        (batch,) = data.test_dataloader()
        assert data.tokenizer.decode(batch.gold.input_ids[0]) == whole


def test_a_question_that_occurs_in_the_chat_template_is_located(backbone: BackboneConfig) -> None:
    data = connected(Generated(template="chat"), backbone)
    data.use_questions(["user", " assistant "])
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert [example.id for batch in batches for example in batch.examples] == ["question/1", "question/0"]
    rendered = Template(PromptFormat("chat"), data.tokenizer).render("user")
    assert rendered.text[: rendered.question[0]] == "<|user|>\n"
    (batch,) = batches
    assert text(batch.prompt, 0, batch.prompt.question[0], data.tokenizer) == "assistant"


def test_predict_batches_have_no_gold_tokens(backbone: BackboneConfig) -> None:
    data = connected(Generated(), backbone)
    data.use_questions(["2+2"])
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    (span,) = batch.gold.rationale.tolist()
    assert span[0] == span[1]
    assert batch.examples[0].completion == ""


def test_batch_moves_to_a_device(backbone: BackboneConfig) -> None:
    data = connected(Generated(test_size=3), backbone)
    data.setup("test")
    (batch,) = data.test_dataloader()
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.examples is batch.examples
    assert len(moved) == 3
    assert {t.device.type for t in (*vars(moved.gold).values(), *vars(moved.prompt).values())} == {"meta"}


class SlowTokenizer:
    is_fast = False


def test_slow_tokenizer_is_rejected() -> None:
    with pytest.raises(UserError, match="SlowTokenizer is not a fast one"):
        encode([Example("a", "b", "", "", "")], None, SlowTokenizer())  # type: ignore[arg-type]


def test_chat_without_a_chat_template_is_rejected(backbone: BackboneConfig) -> None:
    data = connected(Generated(template="chat"), backbone)
    data.tokenizer.chat_template = None
    with pytest.raises(UserError, match="template 'chat' needs a tokenizer with a chat template"):
        data.setup("test")


def test_a_chat_template_that_changes_the_question_is_rejected(backbone: BackboneConfig) -> None:
    data = connected(Generated(template="chat", task="letter_reversal"), backbone)
    data.tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(UserError, match="chat template changes the text"):
        data.setup("test")


def test_an_eos_token_added_by_the_tokenizer_is_removed(backbone: BackboneConfig) -> None:
    from tokenizers.processors import TemplateProcessing

    data = connected(Generated(test_size=2), backbone)
    tokenizer: Any = data.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert (batch.prompt.input_ids[:, -1] != 2).all()
    for i, example in enumerate(batch.examples):
        real = batch.gold.input_ids[i][batch.gold.attention_mask[i].bool()].tolist()
        assert real[0] == 1
        assert real.count(1) == 1
        assert real.count(2) == 1
        assert real[-1] == 2
        assert text(batch.prompt, i, batch.prompt.question[i], tokenizer) == example.question

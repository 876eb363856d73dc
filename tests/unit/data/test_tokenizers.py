"""Tests that training tokens equal those of the joint text, for seven kinds of tokenizers."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from promptstage.datamodules import GSM8K
from promptstage.datamodules.encoding import Batch
from promptstage.datamodules.prompt_format import PromptFormat
from promptstage.datamodules.templates import Template
from promptstage.datamodules.token_ids import adds_bos
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.checkpoints import describe, verify
from promptstage.lightning_modules.dham import DHAM
from promptstage.lightning_modules.prompt_tuning import PromptTuning
from promptstage.utilities.errors import UserError
from tests.unit.backbone.tiny import random_model
from tests.unit.data.rows import WriteRows
from tests.unit.data.tokenizers import KINDS, make

ROWS = [
    {"question": "Mira has 3 pears and buys 4 more. How many?", "answer": "She has <<3+4=7>>7.\n#### 7"},
    {"question": "What is 12 + 30?", "answer": "#### 42"},
    {"question": "How many\nare there? ", "answer": " 12 in all.\n\nSo 1,000.\n#### 1,000"},
    {"question": "x", "answer": "(The sum)\n#### 5"},
]
TEMPLATES = ("plain", "cot", "{question}\nSo:\n", "Q: {question}\nA: ", "{question}=", "chat")
CHAT = ("qwen", "mistral", "gemma", "smollm2")
CASES = [(kind, name) for kind in (*KINDS, "smollm2") for name in TEMPLATES if name != "chat" or kind in CHAT]
BEHIND_BLANK = "Q: {question}\nA: "


@pytest.fixture(params=[*KINDS, "smollm2"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tokenizer(kind: str, request: pytest.FixtureRequest) -> Any:
    return made(kind) if kind != "smollm2" else loaded(request.getfixturevalue("smollm2"))


made = cache(make)


@cache
def loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def data_with(tokenizer: Any, folder: str, **options: Any) -> GSM8K:
    data = GSM8K(source=folder, **options)
    data.connect(tokenizer)
    data.setup("test")
    return data


def backbone_with(tokenizer: Any, family: str = "llama") -> Backbone:
    model = random_model(family, vocab_size=len(tokenizer), max_position_embeddings=512)
    backbone = Backbone(BackboneConfig(name="tiny"), model)
    backbone.__dict__["tokenizer"] = tokenizer
    return backbone


def whole_text(template: Template, example: Any) -> tuple[str, str]:
    """Return a prompt, and the prompt with its completion, as text."""
    prompt = template.render(example.question).text
    return prompt, prompt + template.separator + example.completion


def read(tokenizer: Any, text: str, chat: bool) -> list[int]:
    """Tokenize a text with the backend alone, without a closing [SEP]."""
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=not chat)
    ids = list(encoding.ids)
    return ids[:-1] if not chat and ids[-1] == tokenizer.eos_token_id else ids


def gold_ids(batch: Batch, row: int) -> list[int]:
    return batch.gold.input_ids[row][batch.gold.attention_mask[row].bool()].tolist()


@pytest.mark.parametrize(("kind", "template"), CASES, indirect=["kind"])
def test_ids_equal_those_of_the_joint_text(
    tokenizer: Any, kind: str, template: str, write_rows: WriteRows
) -> None:
    data = data_with(tokenizer, write_rows(test=ROWS), template=template)
    ready = Template(PromptFormat(template), tokenizer)
    joint = 0
    for batch in data.test_dataloader():
        for row, example in enumerate(batch.examples):
            ids, asked = gold_ids(batch, row), batch.prompt.input_ids[row]
            prompt = asked[batch.prompt.attention_mask[row].bool()].tolist()
            text, whole = whole_text(ready, example)
            assert prompt == read(tokenizer, text, ready.is_chat)
            assert ids[: len(prompt)] == prompt
            assert ids[-1] == tokenizer.eos_token_id
            together = read(tokenizer, whole, ready.is_chat)
            if together[: len(prompt)] == prompt:
                joint += 1
                assert ids[:-1] == together
            elif kind != "wordpiece":
                # A different tokenization of the same text, which continues the prompt.
                assert tokenizer.decode(ids[:-1]) == tokenizer.decode(together)
            labels = batch.gold.labels[row]
            assert labels[labels != -100].tolist() == ids[len(prompt) :]
    if template != BEHIND_BLANK:
        assert joint == len(ROWS)


def own_loss(model: Any, ids: list[int], start: int) -> Tensor:
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    return cross_entropy(logits[start - 1 : -1], torch.tensor(ids[start:]), reduction="sum")


@torch.no_grad()
@pytest.mark.parametrize("template", ["plain", "{question}\nSo:\n"])
def test_losses_equal_those_of_the_joint_text(tokenizer: Any, template: str, write_rows: WriteRows) -> None:
    data = data_with(tokenizer, write_rows(test=ROWS), template=template)
    backbone, ready = backbone_with(tokenizer), Template(PromptFormat(template), tokenizer)
    for batch in data.test_dataloader():
        _, losses = backbone.loss(batch.gold.input_ids, batch.gold.labels)
        for loss, example in zip(losses, batch.examples, strict=True):
            prompt, whole = whole_text(ready, example)
            ids = [*read(tokenizer, whole, chat=False), tokenizer.eos_token_id]
            expected = own_loss(backbone.model, ids, len(read(tokenizer, prompt, chat=False)))
            assert float(loss) == pytest.approx(float(expected), abs=1e-6)


def test_no_second_space_is_inserted_before_an_answer(write_rows: WriteRows) -> None:
    """Check tokenizers that encode "She" alone like " She", which would give the answer two spaces."""
    for kind in ("mistral", "gemma"):
        data = data_with(made(kind), write_rows(test=ROWS[:1]), template=BEHIND_BLANK)
        (batch,) = data.test_dataloader()
        text = data.tokenizer.decode(gold_ids(batch, 0)[1:-1])
        assert text == f"Q: {batch.examples[0].question}\nA: She has 7.\n#### 7"


def test_the_space_before_an_answer_follows_the_chat_template(write_rows: WriteRows) -> None:
    data = data_with(made("mistral"), write_rows(test=ROWS[:1]), template="chat")
    (batch,) = data.test_dataloader()
    question = batch.examples[0].question
    assert data.tokenizer.decode(gold_ids(batch, 0)) == (
        f"<s> [INST] {question} [/INST] She has 7.\n#### 7</s>"
    )


# --- a BOS before the prompt -----------------------------------------------------------------------------


def moved(data: GSM8K, bos_first: bool = True) -> Batch:
    """Return the only batch of the test split, for a model with ``bos_first``."""
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=SimpleNamespace(bos_first=bos_first),
        global_rank=0,
        world_size=1,
        limit_test_batches=1.0,
    )
    (batch,) = data.test_dataloader()
    return batch


def prompted(tokenizer: Any, method: str, family: str) -> Any:
    options: dict[str, Any] = {"num_virtual_tokens": 5, "bos_first": True}
    kinds: dict[str, Any] = {"prompt": PromptTuning, "dham": DHAM}
    if method == "dham":
        options |= {"partition": [0, 2], "mode": "accumulate"}
    module = kinds[method](**options)
    module.backbone = backbone_with(tokenizer, family)
    module.configure_model()
    return module.double()


def explicit(module: Any, tokenizer: Any, content: list[int]) -> Tensor:
    """Compute logits of [BOS, P1 … Pm, content without its BOS] for prompt tuning with the plain model."""
    body = content[1:] if adds_bos(tokenizer) else content
    embed = module.backbone.model.get_input_embeddings()
    parts = [embed(torch.tensor([tokenizer.bos_token_id])), module.prompt, embed(torch.tensor(body))]
    return module.backbone.model(inputs_embeds=torch.cat(parts)[None]).logits[0]


@torch.no_grad()
@pytest.mark.parametrize("bos_kind", ["embedded", "llama3", "mistral", "gemma", "wordpiece", "gpt2"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bos_before_the_prompt_is_the_only_one(bos_kind: str, family: str, write_rows: WriteRows) -> None:
    tokenizer = made(bos_kind)
    data = data_with(tokenizer, write_rows(test=ROWS))
    before, batch = moved(data, bos_first=False), moved(data)
    adds = adds_bos(tokenizer)
    assert adds == (bos_kind != "gpt2")
    module = prompted(tokenizer, "prompt", family)
    prefix = module.prefix()
    _, losses = module.backbone.loss(batch.gold.input_ids, batch.gold.labels, prefix)
    outputs = generate(
        module.backbone, tokenizer, batch.prompt.input_ids, batch.prompt.attention_mask, prefix, 6
    )
    for row, example in enumerate(batch.examples):
        ids = gold_ids(before, row)
        assert gold_ids(batch, row) == ids[adds:]
        span = slice(*batch.gold.question[row].tolist())
        unmoved = slice(*before.gold.question[row].tolist())
        assert torch.equal(batch.gold.input_ids[row, span], before.gold.input_ids[row, unmoved])
        left = slice(*batch.prompt.question[row].tolist())
        assert torch.equal(batch.prompt.input_ids[row, left], before.gold.input_ids[row, unmoved])
        completion = int((batch.gold.labels[row] != -100).sum())
        logits = explicit(module, tokenizer, ids)
        expected = cross_entropy(
            logits[-completion - 1 : -1], torch.tensor(ids[-completion:]), reduction="sum"
        )
        assert float(losses[row]) == pytest.approx(float(expected), abs=1e-6), example.id
        text = ids[: len(ids) - completion]
        for token in outputs[row]:
            assert token == int(explicit(module, tokenizer, text)[-1].argmax())
            text.append(token)


@torch.no_grad()
def test_stages_have_a_single_bos(write_rows: WriteRows) -> None:
    tokenizer = made("llama3")
    data = data_with(tokenizer, write_rows(test=ROWS))
    before, batch = moved(data, bos_first=False), moved(data)
    assert (batch.gold.input_ids != tokenizer.bos_token_id).all()
    module = prompted(tokenizer, "dham", "llama")
    assert module.prefix().num_leading == 1
    bare = before.gold.input_ids[:, 1:], before.gold.labels[:, 1:]
    losses, expected, doubled = (
        module.backbone.loss(*tokens, module.prefix())[1]
        for tokens in (
            (batch.gold.input_ids, batch.gold.labels),
            bare,
            (before.gold.input_ids, before.gold.labels),
        )
    )
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    assert ((losses - doubled).abs() > 1e-3).all()


def test_a_prompt_trained_behind_two_bos_tokens_is_rejected() -> None:
    module = prompted(made("llama3"), "prompt", "llama")
    checkpoint = {"promptstage": describe(module)}
    verify(module, checkpoint)
    del checkpoint["promptstage"]["structure"]["bos_in_content"]  # as in older checkpoints
    with pytest.raises(UserError, match="bos_in_content must be unset as in the checkpoint, got False"):
        verify(module, checkpoint)
    unaffected = prompted(made("gpt2"), "prompt", "llama")
    assert unaffected.structure() == {"insert_at": 0, "bos_first": True}


def test_the_partition_search_keeps_the_bos_of_its_examples(write_rows: WriteRows) -> None:
    """Check the batches of the search, which runs without a prompt: content keeps its own BOS."""
    tokenizer = made("llama3")
    data = GSM8K(source=write_rows(train=ROWS * 4), validation_size=2)
    data.connect(tokenizer)
    data.setup("fit")
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=SimpleNamespace(bos_first=True),
        global_rank=0,
        world_size=1,
        limit_test_batches=1.0,
    )
    for batch in data.probe_loader(3, 0):
        assert (batch.gold.input_ids[:, 0] == tokenizer.bos_token_id).all()
    for batch in data.training_questions(3):
        assert (batch.gold.input_ids != tokenizer.bos_token_id).all()

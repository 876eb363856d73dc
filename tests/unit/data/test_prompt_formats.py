"""Few-shot, system messages and arguments of chat templates: ids at training are those at generation."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from promptstage.datamodules import GSM8K
from promptstage.datamodules.encoding import Batch, Tokens
from promptstage.utilities.errors import UserError
from tests.unit.data.tokenizers import make

QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role | replace('assistant', 'model') }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TOKENIZERS = dict.fromkeys(["embedded", "llama3", "qwen", "gpt2"], QWEN_CHAT) | {"gemma": GEMMA_CHAT}
FORMATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cot": {"template": "cot"},
    "own text": {"template": "Solve {question}\n"},
    "few-shot": {"demonstrations": 2},
    "chat": {"template": "chat"},
    "system": {"template": "chat", "system": "Be brief."},
    "thinking on": {"template": "chat", "template_args": {"enable_thinking": True}},
    "thinking off": {"template": "chat", "template_args": {"enable_thinking": False}},
    "chat few-shot": {"template": "chat", "system": "Be brief.", "demonstrations": 3},
}


CHAT = {"template": "chat"}


@pytest.fixture
def tokenizer(kind: str, request: pytest.FixtureRequest) -> Any:
    if kind != "smollm2":
        return tokenizer_of(kind)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(request.getfixturevalue("smollm2"))


def tokenizer_of(kind: str) -> Any:
    tokenizer = make(kind)
    tokenizer.chat_template = TOKENIZERS[kind]
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


@pytest.fixture
def source(tmp_path: Path) -> str:
    for split, count in (("train", 12), ("validation", 4), ("test", 5)):
        rows = [
            {"question": f"How many is {i} and {j}?", "answer": f"It is {i + j}.\n#### {i + j}"}
            for i in range(count)
            for j in [len(split)]
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(tmp_path)


def data_with(tokenizer: Any, source: str, **options: Any) -> GSM8K:
    data = GSM8K(source=source, **({"batch_size": 4} | options))
    data.connect(tokenizer)
    data.setup("fit")
    data.setup("test")
    return data


def row_ids(tokens: Tokens, row: int) -> list[int]:
    return tokens.input_ids[row][tokens.attention_mask[row].bool()].tolist()


def batches(data: GSM8K) -> list[Batch]:
    return [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]


KINDS = (*TOKENIZERS, "smollm2")
CASES = [
    (kind, name)
    for kind in KINDS
    for name, options in FORMATS.items()
    if kind not in ("gemma", "smollm2") or "template_args" not in options  # their templates have none
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_ids_at_training_are_those_at_generation(tokenizer: Any, name: str, source: str) -> None:
    options = FORMATS[name]
    data = data_with(tokenizer, source, **options)
    special = set(tokenizer.all_special_ids)
    for batch in batches(data):
        for row, example in enumerate(batch.examples):
            gold, prompt = row_ids(batch.gold, row), row_ids(batch.prompt, row)
            assert gold[: len(prompt)] == prompt
            labels = batch.gold.labels[row]
            learned = labels[labels != -100].tolist()
            assert gold[len(prompt) :] == learned
            # One end token, no merged or doubled special tokens at the border.
            assert learned.count(tokenizer.eos_token_id) == 1
            assert not set(learned[:-1]) & special
            assert tokenizer.decode(learned[:-1]).strip() == example.completion
            doubled = [a for a, b in pairwise(prompt) if a == b and a in special]
            assert not doubled
            text = tokenizer.decode(prompt)
            assert text.count(example.question) == 1
            assert text.endswith("<think>\n\n</think>\n\n") == (name == "thinking off")


def span_text(tokens: Tokens, row: int, span: torch.Tensor, tokenizer: Any) -> str:
    start, end = span.tolist()
    return tokenizer.decode(tokens.input_ids[row, start:end]).strip()


@pytest.mark.parametrize("name", ["few-shot", "chat few-shot"])
@pytest.mark.parametrize("kind", KINDS)
def test_demonstrations_are_training_questions_and_never_the_question(
    tokenizer: Any, name: str, source: str
) -> None:
    data = data_with(tokenizer, source, **FORMATS[name])
    count = FORMATS[name]["demonstrations"]
    training = {row.question: row.completion for row in data.examples("train")}
    for batch in batches(data):
        for tokens in (batch.gold, batch.prompt, batch.prompt.right_padded()):
            assert tokens.demonstrations.shape == (len(batch), count, 4)
            for row, example in enumerate(batch.examples):
                assert span_text(tokens, row, tokens.question[row], tokenizer) == example.question
                shown = [
                    (span_text(tokens, row, one[:2], tokenizer), span_text(tokens, row, one[2:], tokenizer))
                    for one in tokens.demonstrations[row]
                ]
                assert len(dict(shown)) == count
                assert example.question not in dict(shown)
                assert all(training[question] == completion for question, completion in shown)


def test_demonstrations_depend_on_their_seed_alone(source: str) -> None:
    tokenizer = tokenizer_of("qwen")

    def drawn(**options: Any) -> Any:
        return data_with(tokenizer, source, demonstrations=2, **options).prompt_format().demonstrations

    assert drawn() == drawn(batch_size=1) == drawn(template="chat")
    assert drawn() != drawn(demonstration_seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"system": "x"}, "system needs template 'chat', got template 'plain'"),
        ({"template_args": {"x": 1}}, "template_args needs template 'chat'"),
        (
            {"template": "chat", "template_args": {"tokenize": True}},
            "template_args: 'tokenize' cannot be set",
        ),
        ({"template": "chat", "template_args": {"a b": 1}}, "template_args: 'a b' cannot be set"),
        ({"template": "chat", "template_args": {"x": [1]}}, "x must be a boolean, number or text"),
        ({"template": "chat", "template_args": {"thinking": 1}}, "chat template has no argument 'thinking'"),
        ({"demonstrations": 13}, "demonstrations must be <= 12"),
        ({"demonstrations": -1}, "demonstrations must be >= 0"),
        ({"template": "chat", "system": "\ud800"}, "system has a lone surrogate"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str, source: str) -> None:
    with pytest.raises(UserError, match=message):
        data_with(tokenizer_of("gpt2"), source, **options)


def test_a_template_that_rejects_a_system_message(source: str) -> None:
    tokenizer = tokenizer_of("gemma")
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + GEMMA_CHAT
    )
    with pytest.raises(UserError, match=r"cannot be used: .*System role not supported"):
        data_with(tokenizer, source, template="chat", system="Be brief.")


@pytest.mark.parametrize(("arguments", "noted"), [(None, 1), ({"enable_thinking": False}, 0)])
def test_a_thinking_mode_that_is_not_set_is_noted_once(
    arguments: dict[str, Any] | None, noted: int, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        data_with(tokenizer_of("qwen"), source, template="chat", template_args=arguments)
    assert caplog.text.count("has a thinking mode") == noted


@pytest.mark.parametrize(("template", "noted"), [("Q: {question}\\nA:", 1), ("Q: {question}\nA:", 0)])
def test_a_line_break_that_is_written_out_is_noted(
    template: str, noted: int, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        data_with(tokenizer_of("qwen"), source, template=template)
    assert caplog.text.count("has a backslash followed by n") == noted

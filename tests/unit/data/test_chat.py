"""Tests of chat templates that fail, never end, exhaust memory, or render the date."""

import time
from datetime import date
from typing import Any

import pytest

from promptstage.datamodules import Generated, bounded, chat
from promptstage.datamodules.chat import ChatTemplate
from promptstage.datamodules.prompt_format import PromptFormat
from promptstage.datamodules.templates import Template
from promptstage.lightning_modules.backbone.loading import BackboneConfig
from promptstage.utilities.errors import UserError
from tests.unit.data.connected import connected
from tests.unit.data.tokenizers import make

ECHO = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
FAILING = {
    "{{ raise_exception('A system message is required') }}": "TemplateError: 'A system message is required'",
    "{% for m in messages %}{{ m['content'] }": "TemplateSyntaxError: \"unexpected '}'\"",
    "{{ messages[7]['content'] }}": "UndefinedError",
    "{{ 1 // 0 }}": "ZeroDivisionError",
    "{{ messages[0].content + 1 }}": "TypeError",
    "{{ ''.__class__.__mro__ }}": "SecurityError",
    "{% for i in range(1000000000) %}{% endfor %}": "OverflowError",
    "{{ 'a' * 500000 }}{{ messages[0].content }}": "a prompt of 500010 characters",
    "{{ messages[0].content }}{{ '\\ud83d' }}": "UnicodeEncodeError",
    "{{ raise_exception('a\\nb \x1b[2J\u202e') }}": "TemplateError: 'a'",
    "{{ raise_exception('\x1b[2J') }}": "TemplateError: '\\x1b[2J'",
}
ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{{ 10 ** (10 ** 10) }}",
)
LARGE = (
    "{{ 'a' * 10000000000 }}",
    "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "{{ [0] * 10000000000 }}",
    "{{ '%09999999999d' % 1 }}",
)


def tokenizer_with(template: Any) -> Any:
    tokenizer = make("gpt2")
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", FAILING)
def test_a_failing_template_is_rejected(template: str) -> None:
    with pytest.raises(UserError) as error:
        Template(PromptFormat("chat"), tokenizer_with(template))
    line = str(error.value)
    assert line.startswith("the backbone's chat template cannot be used: ")
    assert FAILING[template] in line
    assert line.endswith("use plain, cot, or a text with one {question}")
    assert line.isprintable()
    assert len(line) < 400


@pytest.mark.parametrize("template", ENDLESS)
def test_an_endless_template_is_rejected(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be used: it takes longer than 0\.3 seconds; use plain"):
        Template(PromptFormat("chat"), tokenizer_with(template))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("template", LARGE)
def test_a_template_that_exhausts_memory_is_rejected(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MEMORY", 200 << 20)
    with pytest.raises(
        UserError, match=r"more than 0\.195312 GiB of memory|OverflowError|MemoryError|longer than"
    ):
        Template(PromptFormat("chat"), tokenizer_with(template))


def test_a_template_that_hangs_on_one_question_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 1.0)
    loop = ENDLESS[0]
    ready = Template(
        PromptFormat("chat"),
        tokenizer_with(f"{ECHO}{{% if 'loop' in messages[0].content %}}{loop}{{% endif %}}"),
    )
    assert ready.render("1+1?").text == "1+1?"
    with pytest.raises(UserError, match="takes longer than"):
        ready.render("loop")


def test_several_templates_without_a_default_are_rejected() -> None:
    named = tokenizer_with({"rag": ECHO, "tool_use": ECHO})
    with pytest.raises(
        UserError, match=r"needs a chat template named 'default', .* are named 'rag', 'tool_use'"
    ):
        Template(PromptFormat("chat"), named)
    assert (
        Template(PromptFormat("chat"), tokenizer_with({"rag": "x", "default": ECHO})).render("q").text == "q"
    )


def test_rendering_leaves_no_process_and_no_file() -> None:
    from pathlib import Path

    import psutil

    ready = Template(PromptFormat("chat"), tokenizer_with(ECHO))
    files = len(list(Path("/proc/self/fd").iterdir()))
    children = psutil.Process().children()
    for _ in range(5):
        ready.render("q")
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert psutil.Process().children() == children


def test_prompts_equal_those_of_transformers() -> None:
    for kind in ("qwen", "mistral"):
        tokenizer = make(kind)
        messages = [{"role": "user", "content": "1+1?"}]
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert Template(PromptFormat("chat"), tokenizer).render("1+1?").text == expected


# --- the date --------------------------------------------------------------------------------------------

DATED = "Today is {{ strftime_now('%d %b %Y') }}. " + ECHO


def test_the_date_option_is_rendered() -> None:
    tokenizer = tokenizer_with(DATED)
    assert ChatTemplate(tokenizer, "2024-07-26").prompts([((), "q")]) == ["Today is 26 Jul 2024. q"]
    today = date.today().strftime("%d %b %Y")
    assert ChatTemplate(tokenizer).prompts([((), "q")]) == [f"Today is {today}. q"]


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", "26 Jul 2024"])
def test_an_invalid_date_is_rejected(day: str) -> None:
    with pytest.raises(UserError, match=f"date must be in the form 2026-01-31, got '{day}'"):
        Generated(date=day)


def test_a_data_set_renders_its_date(backbone: BackboneConfig) -> None:
    data = connected(Generated(template="chat", date="2024-07-26", test_size=2), backbone)
    data.tokenizer.chat_template = DATED
    data.setup("test")
    (batch,) = data.test_dataloader()
    for row in batch.prompt.input_ids:
        assert "Today is 26 Jul 2024. " in data.tokenizer.decode(row)

"""Conversations are rendered in the format of a prompt's training data."""

from copy import deepcopy
from typing import Any

import pytest

import promptstage as ps
from promptstage.composition.raw_texts import RawTexts
from promptstage.lightning_modules.text_settings import TextSettings
from promptstage.serving.conversations import Conversations
from promptstage.serving.requests import Message

CHAT = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
TURNS = (("user", "1+2"), ("assistant", "3"), ("user", " 5+6 "))
RENDERED = "<user> 1+2\n<assistant> 3\n<user> 5+6\n<assistant> "


@pytest.fixture(scope="module")
def backbone() -> ps.Backbone:
    return ps.Backbone("embedded")


def messages(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=text) for role, text in turns]  # type: ignore[arg-type]


def rendered(backbone: ps.Backbone, turns: Any, **settings: Any) -> str:
    """The text of a conversation's tokens."""
    prompt = ps.PromptTuning(backbone, num_virtual_tokens=2)
    prompt.text_settings = TextSettings(**settings)
    tokenizer = deepcopy(backbone.tokenizer)
    tokenizer.chat_template = CHAT
    ids = Conversations(prompt, RawTexts(prompt, tokenizer)).encode(messages(*turns))
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def test_a_chat_template_renders_all_turns(backbone: ps.Backbone) -> None:
    assert rendered(backbone, TURNS, template="chat") == RENDERED
    assert rendered(backbone, TURNS[:1], template="chat") == "<user> 1+2\n<assistant> "


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_replaces_that_of_training(backbone: ps.Backbone, role: str) -> None:
    system = {"template": "chat", "system": "Be brief."}
    assert rendered(backbone, TURNS, **system) == f"<system> Be brief.\n{RENDERED}"
    own = ((role, "Add."), *TURNS)
    assert rendered(backbone, own, **system) == f"<system> Add.\n{RENDERED}"


def test_demonstrations_of_training_come_first(backbone: ps.Backbone) -> None:
    shots = {"shots": 1, "demonstrations": (("7+1", "8"), ("4+4", "8"))}
    assert rendered(backbone, TURNS, template="chat", **shots) == f"<user> 7+1\n<assistant> 8\n{RENDERED}"
    plain = "Question: 7+1\nAnswer: 8\n\nQuestion: 1+2\nAnswer: 3\n\nQuestion: 5+6\nAnswer:"
    assert rendered(backbone, TURNS, **shots) == plain


def test_a_repeated_question_is_not_left_out(backbone: ps.Backbone) -> None:
    turns = (("user", "1+2"), ("assistant", "3"), ("user", "1+2"))
    assert rendered(backbone, turns) == "Question: 1+2\nAnswer: 3\n\nQuestion: 1+2\nAnswer:"


@pytest.mark.parametrize(
    "turns",
    [
        (("assistant", "1"),),
        (("user", "1"), ("assistant", "2")),
        (("user", "1"), ("system", "2"), ("user", "3")),
        (("system", "1"),),
    ],
)
def test_other_orders_of_roles_are_refused(backbone: ps.Backbone, turns: Any) -> None:
    with pytest.raises(ps.UserError, match="messages must be an optional system message"):
        rendered(backbone, turns, template="chat")

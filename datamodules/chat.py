"""Chat templates: code that comes with a tokenizer, run with a deadline and a memory limit."""

import inspect
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from promptstage.datamodules.bounded import CallError, bounded
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0  # for a few prompts; more for many
PROMPTS_PER_SECOND = 100  # thousands are usual
LONGEST = 100_000  # characters that a template may add to a question
THINKING = "enable_thinking"  # its name in the templates of Qwen3, SmolLM3 and others
INSTEAD = "use plain, cot, or a text with one {question}"

Messages = list[dict[str, str]]
Conversation = tuple[Sequence[tuple[str, str]], str]
"""Questions with their answers, and the question to answer."""


class ChatTemplate:
    """Chat template of a tokenizer, for conversations that end in a question.

    Args:
        today: the date that the template sees, in ISO form; None: today's.
        system: system message; None: none, so that a template may add its own.
        arguments: further arguments of the template, such as ``enable_thinking``.

    Raises:
        UserError: if the tokenizer has no chat template, or the date is invalid.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        today: str | None = None,
        system: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        template = tokenizer.chat_template
        if not template:
            raise UserError(
                "template 'chat' needs a tokenizer with a chat template, and this backbone's has none: "
                f"{INSTEAD}"
            )
        if isinstance(template, dict) and "default" not in template:
            raise UserError(
                f"template 'chat' needs a chat template named 'default', and this backbone's are named "
                f"{', '.join(map(repr, sorted(template)))}: {INSTEAD}"
            )
        self._tokenizer = tokenizer
        self._today = date.today() if today is None else to_date(today)
        self._system: Messages = [] if system is None else [{"role": "system", "content": system}]
        self._arguments = dict(arguments or {})
        _check_used(self._arguments, str(template))

    def prompts(self, conversations: Sequence[Conversation]) -> list[str]:
        """Render the prompt of each conversation, generation prompt included.

        Raises:
            UserError: if the template fails, or takes too long or too much memory.
        """
        return self._render([self._messages(*conversation) for conversation in conversations], True)

    def render(self, messages: Messages, generation: bool) -> str:
        """Render a conversation as it is, without the system message of :meth:`prompts`.

        Args:
            messages: each with ``role`` and ``content``.
            generation: append the generation prompt.

        Raises:
            UserError: if the template fails, or takes too long or too much memory.
        """
        return self._render([messages], generation)[0]

    def _messages(self, answered: Sequence[tuple[str, str]], question: str) -> Messages:
        turns = [text for pair in answered for text in pair] + [question]
        roles = ("user", "assistant")
        return [
            *self._system,
            *({"role": roles[i % 2], "content": text} for i, text in enumerate(turns)),
        ]

    def thinks(self) -> bool:
        """Return whether the template has a thinking mode that is not set."""
        template = str(self._tokenizer.chat_template)
        return THINKING in template and THINKING not in self._arguments

    def description(self) -> list[str]:
        """Return all that prompts depend on, besides the messages of a conversation."""
        arguments = sorted(self._arguments.items())
        return [str(self._tokenizer.chat_template), self._today.isoformat(), repr((self._system, arguments))]

    def answered(self, question: str, answer: str) -> str | None:
        """Render a question and its answer; None for a template that cannot render an answer."""
        turns = [*self._messages((), question), {"role": "assistant", "content": answer}]
        try:
            return self._render([turns], False)[0]
        except UserError:
            return None

    def _render(self, conversations: Sequence[Messages], generation: bool) -> list[str]:
        def render() -> list[str]:
            _fix_date(self._today)
            return [self._render_one(messages, generation) for messages in conversations]

        try:
            return bounded(render, SECONDS + len(conversations) // PROMPTS_PER_SECOND)
        except CallError as error:
            raise UserError(f"the backbone's chat template cannot be used: {error}; {INSTEAD}") from error

    def _render_one(self, messages: Messages, generation: bool) -> str:
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation, **self._arguments
        )
        room = LONGEST + sum(len(message["content"]) for message in messages)
        if not isinstance(text, str) or len(text) > room:
            raise ValueError(f"it makes a prompt of {len(text)} characters of a question")
        text.encode()  # a lone surrogate cannot be tokenized
        return text


def check_template_args(arguments: Mapping[str, Any]) -> None:
    """Check the names and values of arguments of a chat template.

    Raises:
        UserError: if a name is one of transformers' own arguments, or a value is not plain.
    """
    if not arguments:
        return
    from transformers import PreTrainedTokenizerBase

    taken = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"messages"}
    for name, value in arguments.items():
        if not name.isidentifier() or name in taken:
            raise UserError(f"template_args: {name!r:.60} cannot be set")
        if not isinstance(value, bool | int | float | str):
            raise UserError(f"template_args: {name} must be a boolean, number or text, got {value!r:.60}")


def _check_used(arguments: Mapping[str, Any], template: str) -> None:
    """
    Raises:
        UserError: if an argument does not occur in the template: it would have no effect.
    """
    for name in arguments:
        if not re.search(rf"\b{name}\b", template):
            raise UserError(f"template_args: the backbone's chat template has no argument {name!r:.60}")


def to_date(text: str) -> date:
    """Read a date in ISO form; raises a UserError for anything else."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"date must be in the form 2026-01-31, got {text!r}") from error


def _fix_date(today: date) -> None:
    """Make ``strftime_now`` of chat templates return ``today``, in this process."""
    from transformers.utils import chat_template_utils

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Fixed":
            return cls(today.year, today.month, today.day, tzinfo=tz)

    chat_template_utils.datetime = Fixed  # type: ignore[misc]

"""Chat templates: code that comes with a tokenizer, run with a deadline and a memory limit."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from promptstage.datamodules.bounded import CallError, bounded
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0  # for a few prompts; more for many
PROMPTS_PER_SECOND = 100  # thousands are usual
LONGEST = 100_000  # characters that a template may add to a question
INSTEAD = "use plain, cot, or a text with one {question}"

Messages = list[dict[str, str]]


class ChatTemplate:
    """Chat template of a tokenizer, for conversations of one question.

    Args:
        today: the date that the template sees, in ISO form; None: today's.

    Raises:
        UserError: if the tokenizer has no chat template, or the date is invalid.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", today: str | None = None) -> None:
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

    def prompts(self, questions: Sequence[str]) -> list[str]:
        """Render the prompt of each question, generation prompt included.

        Raises:
            UserError: if the template fails, or takes too long or too much memory.
        """
        return self._render([[{"role": "user", "content": question}] for question in questions], True)

    def description(self) -> list[str]:
        """Return the template and the date that prompts depend on."""
        return [str(self._tokenizer.chat_template), self._today.isoformat()]

    def answered(self, question: str, answer: str) -> str | None:
        """Render a question and its answer; None for a template that cannot render an answer."""
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
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
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        room = LONGEST + sum(len(message["content"]) for message in messages)
        if not isinstance(text, str) or len(text) > room:
            raise ValueError(f"it makes a prompt of {len(text)} characters of a question")
        text.encode()  # a lone surrogate cannot be tokenized
        return text


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

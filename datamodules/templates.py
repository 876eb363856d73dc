"""Prompts rendered from questions, with the spans of the question and the demonstrations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from promptstage.datamodules.chat import INSTEAD, ChatTemplate
from promptstage.datamodules.prompt_format import CHAT, SLOT, TEMPLATES, Demonstration, PromptFormat
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = "{answer}"
Span = tuple[int, int]


class Rendered(NamedTuple):
    """A prompt's text, with spans of characters.

    Attributes:
        text: the prompt.
        question: the question.
        demonstrations: the question and the completion of each demonstration.
    """

    text: str
    question: Span
    demonstrations: tuple[tuple[Span, Span], ...] = ()


class Template:
    """A prompt format for one tokenizer.

    Args:
        format: the format.
        tokenizer: tokenizer whose chat template ``chat`` uses.

    Attributes:
        is_chat: whether the text already contains special tokens.
        thinks: whether the chat template has a thinking mode that the format does not set.
        separator: text between prompt and completion.

    Raises:
        UserError: if the template cannot be used, or is ``chat`` with a tokenizer without one.
    """

    def __init__(self, format: PromptFormat, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.format = format
        self.is_chat = format.template == CHAT
        self.thinks = False
        if self.is_chat:
            self._chat = ChatTemplate(tokenizer, format.date, format.system, format.template_args)
            self.thinks = self._chat.thinks()
            (prompt,) = self._chat.prompts([((), SLOT)])
            # A question may also occur earlier in the chat template: locate its place by the slot.
            self._before = len(prompt.partition(SLOT)[0])
            self.separator = self._answer_space(prompt)
        else:
            text = TEMPLATES.get(format.template, format.template)
            self._head, _, self._tail = text.partition(SLOT)
            self.separator = "" if text[-1].isspace() else " "

    def description(self) -> list[str | bool]:
        """Return all that a rendered text depends on, besides the question."""
        demonstrations = [text for demonstration in self.format.demonstrations for text in demonstration]
        common = [str(self.format.shots), self.separator, *demonstrations]
        if self.format.per_class:
            common.append(self.format.between)
        own = self._chat.description() if self.is_chat else [self._head, self._tail]
        return [self.is_chat, *common, *own]

    def _answer_space(self, prompt: str) -> str:
        """Return the whitespace between prompt and answer in the chat template (Llama 2: a space)."""
        answered = self._chat.answered(SLOT, ANSWER)
        if answered is None or not answered.startswith(prompt):
            return ""
        space, answer, _ = answered[len(prompt) :].partition(ANSWER)
        return space if answer and space.isspace() else ""

    def render(self, question: str) -> Rendered:
        """Render the prompt of one question; see :meth:`render_all`."""
        return self.render_all([question])[0]

    def render_all(self, questions: Sequence[str]) -> list[Rendered]:
        """Render the prompt of each question.

        Raises:
            UserError: if the tokenizer's chat template fails, or changes a question's text.
        """
        conversations = [(self.format.before(question), question) for question in questions]
        if not self.is_chat:
            return [self._joined(*conversation) for conversation in conversations]
        texts = self._chat.prompts(conversations)
        return [
            self._located(text, *conversation)
            for text, conversation in zip(texts, conversations, strict=True)
        ]

    def conversation(self, turns: Sequence[Demonstration], question: str) -> str:
        """Render a question after earlier turns, which follow the format's demonstrations, as plain text."""
        return self._joined((*self.format.before(question), *turns), question).text

    def _joined(self, demonstrations: Sequence[Demonstration], question: str) -> Rendered:
        """Render a plain text: each demonstration as the question, with its completion."""
        text, spans = "", []
        for worked_question, completion in demonstrations:
            question_span = _span(len(text + self._head), worked_question)
            text += f"{self._head}{worked_question}{self._tail}{self.separator}"
            spans.append((question_span, _span(len(text), completion)))
            text += f"{completion}{self.format.between}"
        question_span = _span(len(text + self._head), question)
        return Rendered(f"{text}{self._head}{question}{self._tail}", question_span, tuple(spans))

    def _located(self, text: str, demonstrations: Sequence[Demonstration], question: str) -> Rendered:
        """Find the spans in a rendered conversation."""
        spans, end = [], self._before
        for demonstration in demonstrations:
            question_span = self._find(text, demonstration.question, end)
            completion_span = self._find(text, demonstration.completion, question_span[1])
            spans.append((question_span, completion_span))
            end = completion_span[1]
        return Rendered(text, self._find(text, question, end), tuple(spans))

    @staticmethod
    def _find(text: str, part: str, start: int) -> Span:
        # Chat templates commonly trim a message.
        start = text.find(part.strip(), start)
        if start < 0:
            raise UserError(f"the backbone's chat template changes the text {part[:40]!r}: {INSTEAD}")
        return _span(start, part.strip())


def _span(start: int, part: str) -> Span:
    return start, start + len(part)

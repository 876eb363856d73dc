"""Prompt templates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from promptstage.datamodules.chat import INSTEAD, ChatTemplate
from promptstage.datamodules.sources import text_problem
from promptstage.utilities.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLOT = "{question}"
CHAT = "chat"
ANSWER = "{answer}"
TEMPLATES = {
    "plain": f"Question: {SLOT}\nAnswer:",
    "cot": f"Question: {SLOT}\nAnswer: Let's think step by step.",
}


class Rendered(NamedTuple):
    """A prompt's text and the characters ``start:end`` of the question in it."""

    text: str
    start: int
    end: int


def check_template(template: str) -> str:
    """Return ``template`` if it can be used.

    Raises:
        UserError: if it is neither a known name nor a text with exactly one ``{question}``.
    """
    if problem := text_problem(template):
        raise UserError(f"template {template!r:.60} {problem}")
    if template in TEMPLATES or template == CHAT or template.count(SLOT) == 1:
        return template
    if template.count(SLOT) > 1:
        raise UserError(f"template {template!r} has {template.count(SLOT)} {SLOT}: write exactly one")
    raise UserError(
        f"template {template!r} is unknown: {nearest(template, [*TEMPLATES, CHAT])}, "
        f"or any text with exactly one {SLOT}"
    )


class Template:
    """A prompt template for one tokenizer.

    Args:
        template: ``plain``, ``cot``, ``chat`` or a text with one ``{question}``.
        tokenizer: tokenizer whose chat template ``chat`` uses, with one user message.
        date: today's date for ``chat``, in ISO form; None: today's.

    Attributes:
        is_chat: whether the text already contains special tokens.
        separator: text between prompt and completion.

    Raises:
        UserError: if the template cannot be used, or is ``chat`` with a tokenizer without one.
    """

    def __init__(self, template: str, tokenizer: "PreTrainedTokenizerBase", date: str | None = None) -> None:
        check_template(template)
        self.is_chat = template == CHAT
        if self.is_chat:
            self._chat = ChatTemplate(tokenizer, date)
            (prompt,) = self._chat.prompts([SLOT])
            # A question may also occur earlier in the chat template: locate its place by the slot.
            self._before = len(prompt.partition(SLOT)[0])
            self.separator = self._answer_space(prompt)
        else:
            text = TEMPLATES.get(template, template)
            self._head, _, self._tail = text.partition(SLOT)
            self.separator = "" if text[-1].isspace() else " "

    def description(self) -> list[str | bool]:
        """Return all that a rendered text depends on, besides the question."""
        if self.is_chat:
            return [True, self.separator, *self._chat.description()]
        return [False, self.separator, self._head, self._tail]

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
        if self.is_chat:
            texts = self._chat.prompts(questions)
            return [self._locate(text, question) for text, question in zip(texts, questions, strict=True)]
        start = len(self._head)
        return [
            Rendered(f"{self._head}{question}{self._tail}", start, start + len(question))
            for question in questions
        ]

    def _locate(self, text: str, question: str) -> Rendered:
        # Chat templates commonly trim a message.
        start = text.find(question.strip(), self._before)
        if start < 0:
            raise UserError(f"the backbone's chat template changes the question {question[:40]!r}: {INSTEAD}")
        return Rendered(text, start, start + len(question.strip()))

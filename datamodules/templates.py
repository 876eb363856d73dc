"""How a question becomes a prompt."""

from typing import TYPE_CHECKING, NamedTuple

from utilities.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLOT = "{question}"
CHAT = "chat"
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
    """``template`` if it can be used.

    Raises:
        UserError: when it is neither a known name nor a text with exactly one ``{question}``.
    """
    if template in TEMPLATES or template == CHAT or template.count(SLOT) == 1:
        return template
    if template.count(SLOT) > 1:
        raise UserError(f"template {template!r} has {template.count(SLOT)} {SLOT}: write exactly one")
    raise UserError(
        f"template {template!r} is unknown: {nearest(template, [*TEMPLATES, CHAT])}, "
        f"or any text with exactly one {SLOT}"
    )


class Template:
    """A template made ready for one tokenizer.

    Args:
        template: ``plain``, ``cot``, ``chat`` or a text with one ``{question}``.
        tokenizer: whose chat template ``chat`` uses, with one user message.

    Attributes:
        is_chat: whether special tokens are part of the text already.
        separator: what stands between prompt and completion.

    Raises:
        UserError: for a template that cannot be used, or ``chat`` with a tokenizer that has none.
    """

    def __init__(self, template: str, tokenizer: "PreTrainedTokenizerBase") -> None:
        check_template(template)
        self.is_chat = template == CHAT
        self._tokenizer = tokenizer
        if self.is_chat:
            if not tokenizer.chat_template:
                raise UserError(
                    "template 'chat' needs a tokenizer with a chat template, and this backbone's has none: "
                    "use plain, cot, or a text with one {question}"
                )
            # The question itself may occur earlier in a chat template's own words: find its place with a
            # text that does not.
            self._before = len(self._chat(SLOT).partition(SLOT)[0])
            self.separator = ""
        else:
            text = TEMPLATES.get(template, template)
            self._head, _, self._tail = text.partition(SLOT)
            self.separator = "" if text[-1].isspace() else " "

    def _chat(self, question: str) -> str:
        messages = [{"role": "user", "content": question}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def render(self, question: str) -> Rendered:
        """The prompt for ``question``.

        Raises:
            UserError: when the tokenizer's chat template changes the question's text.
        """
        if not self.is_chat:
            start = len(self._head)
            return Rendered(f"{self._head}{question}{self._tail}", start, start + len(question))
        text = self._chat(question)
        # Chat templates commonly trim a message.
        start = text.find(question.strip(), self._before)
        if start < 0:
            raise UserError(
                f"the backbone's chat template changes the question {question[:40]!r}: use another"
            )
        return Rendered(text, start, start + len(question.strip()))

"""Prompts of conversations, in the format of a soft prompt's training data."""

from collections.abc import Sequence

from promptstage.composition.raw_texts import RawTexts
from promptstage.datamodules.chat import ChatTemplate
from promptstage.datamodules.prompt_format import Demonstration
from promptstage.datamodules.templates import Template
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.serving.requests import Message
from promptstage.utilities.errors import UserError


class Conversations:
    """Rendering of conversations.

    A single question is rendered as in training. Earlier turns follow the demonstrations of the training
    format, if it has any, in the same form.
    """

    def __init__(self, prompt: SoftPromptModule, texts: RawTexts) -> None:
        """
        Args:
            prompt: the soft prompt.
            texts: its tokenization.

        Raises:
            UserError: if its template cannot be used.
        """
        self._texts, self._format = texts, prompt.text_settings.format
        self._template = Template(self._format, texts.tokenizer)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Tokenize the prompt of a conversation that ends in a question.

        Raises:
            UserError: if the roles are in another order, a text is empty, or a system message has no place.
        """
        system, turns, question = parsed(messages)
        if not self._template.is_chat:
            if system is not None:
                raise UserError(
                    f"a system message needs a prompt that was trained with template 'chat', not "
                    f"{self._format.template!r:.60}"
                )
            return self._texts.encode(self._template.conversation(turns, question))
        if system is None and not turns:
            return self._texts.encode(self._template.render(question).text, special=False)
        own = self._format
        chat = ChatTemplate(
            self._texts.tokenizer, own.date, own.system if system is None else system, own.template_args
        )
        (text,) = chat.prompts([((*own.before(question), *turns), question)])
        return self._texts.encode(text, special=False)


def parsed(messages: Sequence[Message]) -> tuple[str | None, list[Demonstration], str]:
    """Return the system message, the earlier turns, and the question at the end.

    Raises:
        UserError: if the roles are in another order, or a text is empty.
    """
    system = None
    rest = list(messages)
    if rest[0].role in ("system", "developer"):
        system = rest.pop(0).text
    roles = [message.role for message in rest]
    if len(roles) % 2 == 0 or roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
        raise UserError(
            "messages must be an optional system message, then those of user and assistant in turn, the last "
            f"one of the user; got {', '.join(message.role for message in messages)[:120]}"
        )
    texts = [message.text.strip() for message in rest]
    if not all(texts):
        raise UserError("a message must not be empty")
    pairs = [Demonstration(*texts[i : i + 2]) for i in range(0, len(texts) - 1, 2)]
    return system, pairs, texts[-1]

"""Token ids of texts that follow a prompt as they are, without a template."""

from typing import TYPE_CHECKING

from promptstage.datamodules.sources import text_problem
from promptstage.datamodules.token_ids import adds_bos, closing_tokens
from promptstage.lightning_modules.prompt_module import PromptModule
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RawTexts:
    """Tokenization of texts as in a prompt's training data: special tokens, and a BOS before the prompt."""

    def __init__(self, prompt: PromptModule, tokenizer: "PreTrainedTokenizerBase") -> None:
        """
        Args:
            prompt: the prompt that the texts follow.
            tokenizer: the backbone's tokenizer, or a copy that only this object uses.
        """
        self.tokenizer = tokenizer
        probe = tokenizer("a", return_offsets_mapping=True)
        self._closing = closing_tokens(tokenizer, probe["input_ids"], probe["offset_mapping"])
        has_bos = getattr(prompt, "bos_first", False) and adds_bos(tokenizer)
        self._omitted = tokenizer.bos_token_id if has_bos else None

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Tokenize a text that generation can continue.

        Args:
            special: add the tokenizer's special tokens, which rendered chats already have.

        Raises:
            UserError: if the text cannot be tokenized.
        """
        if problem := text_problem(text):
            raise UserError(f"text {text[:40]!r} {problem}")
        ids: list[int] = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        if special and self._closing:
            ids = ids[: -self._closing]
        return self.after_prompt(ids)

    def after_prompt(self, ids: list[int]) -> list[int]:
        """Remove a first BOS that the model prepends to its soft prompt, if there are more tokens."""
        return ids[1:] if self._omitted is not None and len(ids) > 1 and ids[0] == self._omitted else ids

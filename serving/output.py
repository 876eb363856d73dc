"""Texts of generations, as a whole and in parts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptstage.lightning_modules.backbone.rows import Limits, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP, LENGTH = "stop", "length"
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # bytes of a character whose last ones are still to come


def decoded(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int]) -> str:
    """Return the text of tokens, without special ones."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def final_text(tokenizer: "PreTrainedTokenizerBase", row: Row) -> tuple[str, str]:
    """Return the text of a finished generation up to its first stop string, and OpenAI's finish reason."""
    return ended(decoded(tokenizer, row.tokens), row.limits, len(row.tokens))


def ended(text: str, limits: Limits, new_tokens: int) -> tuple[str, str]:
    """Return a finished text up to its first stop string, and OpenAI's finish reason.

    Args:
        new_tokens: number of its tokens.
    """
    cut = until_stop(text, limits.stop)
    if len(cut) < len(text):
        return cut, STOP
    return text, LENGTH if new_tokens >= limits.max_new_tokens else STOP


def until_stop(text: str, stop: Sequence[str]) -> str:
    """Return the part of a text before its first stop string.

    >>> until_stop("a; b. c", [".", ";"])
    'a'
    """
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return text[: min(places)] if places else text


def settled(text: str, stop: Sequence[str]) -> str:
    r"""Return the part of an unfinished text that further tokens cannot change.

    >>> settled("17\nQu", ["\nQuestion:"]), settled("caf\ufffd", [])
    ('17', 'caf')
    """
    text = until_stop(text, stop).rstrip(INCOMPLETE)
    begun = [
        length
        for string in stop
        for length in range(1, min(len(string), len(text)) + 1)
        if string.startswith(text[-length:])
    ]
    return text[: len(text) - max(begun, default=0)]


class Stream:
    """Parts of a generation's text, in order."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", row: Row) -> None:
        self._tokenizer, self._row = tokenizer, row
        self._sent = ""
        self._tokens = 0

    def next(self) -> str:
        """Return the text that has come since the last call and is settled."""
        tokens = list(self._row.tokens)
        if len(tokens) == self._tokens:
            return ""
        self._tokens = len(tokens)
        text = decoded(self._tokenizer, tokens)
        return self._part(settled(text, self._row.limits.stop))

    def last(self) -> tuple[str, str]:
        """Return the rest of a finished generation's text, and OpenAI's finish reason."""
        text, reason = final_text(self._tokenizer, self._row)
        return self._part(text), reason

    def _part(self, text: str) -> str:
        if not text.startswith(self._sent):
            return ""  # a tokenizer that changes spaces before the last token
        part, self._sent = text[len(self._sent) :], text
        return part

"""Location of parts of a text among its tokens, and special tokens that tokenizers add."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def question_columns(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Return the columns of the tokens that overlap characters ``start:end``; (0, 0) if none does."""
    inside = [i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def closing_tokens(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], offsets: Sequence[tuple[int, int]]
) -> int:
    """Count the special tokens that the tokenizer appends to every text, such as [SEP].

    Generation has to continue before them.
    """
    count = 0
    while (
        count < len(ids) - 1
        and ids[-1 - count] in tokenizer.all_special_ids
        and _is_empty(offsets[-1 - count])
    ):
        count += 1
    return count


def _is_empty(span: tuple[int, int]) -> bool:
    return span[0] == span[1]


def continuation(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Tokenize ``text`` as the continuation of another text.

    Alone, many tokenizers would put a space before it.
    """
    for before in ("\n", ":", "."):
        head, joint = tokenizer([before, before + text], add_special_tokens=False)["input_ids"]
        if joint[: len(head)] == head and len(joint) > len(head):
            return joint[len(head) :]
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether ``tokenizer`` prepends its BOS token to each text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]

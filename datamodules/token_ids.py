"""Parts of a text among its tokens, whatever the tokenizer puts around them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def question_columns(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Columns of the tokens that share a character with ``start:end``; special tokens have none."""
    inside = [i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def closing_tokens(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], offsets: Sequence[tuple[int, int]]
) -> int:
    """Number of special tokens that the tokenizer puts after every text, such as [SEP].

    Generation has to go on before them.
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
    """Token ids of ``text`` within a longer one.

    On its own, many tokenizers would put a blank before it.
    """
    for before in ("\n", ":", "."):
        head, whole = tokenizer([before, before + text], add_special_tokens=False)["input_ids"]
        if whole[: len(head)] == head and len(whole) > len(head):
            return whole[len(head) :]
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether ``tokenizer`` begins each text with its BOS token."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]

"""Limits on lengths and token ids, set by the backbone or the user."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from promptstage.datamodules.token_table import Encoded, TokenTable
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_vocabulary(rows: TokenTable, size: int, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Check that the backbone has an embedding for each token.

    Args:
        size: number of embeddings.

    Raises:
        UserError: for the first token without one.
    """
    largest = rows.largest_tokens()
    for i in (largest >= size).nonzero()[0][:1]:
        token = int(largest[i])
        raise UserError(
            f"{rows.examples[i].id} has token {token} ({tokenizer.decode([token])!r}), but the backbone "
            f"has embeddings for {size} tokens"
        )


def short_enough(rows: TokenTable, max_length: int | None, data_set: str) -> TokenTable:
    """Select training rows of at most ``max_length`` tokens, and log the number of others.

    Raises:
        UserError: if none is left.
    """
    if max_length is None:
        return rows
    lengths = rows.lengths
    short = [i for i, length in enumerate(lengths) if length <= max_length]
    if not short:
        raise UserError(
            f"max_length {max_length} leaves no training example of {data_set}: the shortest has "
            f"{min(lengths)} tokens"
        )
    if len(short) == len(rows):
        return rows
    rank_zero_info(
        f"{data_set}: left out {len(rows) - len(short)} of {len(rows)} training examples with more than "
        f"{max_length} tokens"
    )
    return rows.take(short)


def check_batch_tokens(batch_tokens: int | None, rows: TokenTable) -> None:
    """Check that a batch of training examples has room for the longest.

    Raises:
        UserError: if it has not.
    """
    if batch_tokens is None:
        return
    reason = "tokens of the longest training example; max_length leaves longer ones out"
    check_minimum({"batch_tokens": batch_tokens}, max(rows.lengths, default=1), reason)


def positions_needed(split: str, prompt: int, completion: int, max_new_tokens: int) -> list[tuple[str, int]]:
    """Return the positions that a row of a split may need, each with a description.

    Args:
        prompt, completion: numbers of tokens.
        max_new_tokens: generation limit; 0: nothing is generated.
    """
    needs = []
    if split in ("train", "validation"):
        needs.append((f"prompt {prompt} + worked answer {completion}", prompt + completion))
    if split != "train":
        limit = f" + generation limit max_new_tokens {max_new_tokens}" if max_new_tokens else ""
        needs.append((f"prompt {prompt}{limit}", prompt + max_new_tokens))
    return needs


def longest(splits: Mapping[str, TokenTable], max_new_tokens: int) -> int:
    """Return the positions that the longest text may need, generation included."""
    return max(
        (max(_needed(split, rows, max_new_tokens), default=0) for split, rows in splits.items()), default=0
    )


def _needed(split: str, rows: TokenTable, max_new_tokens: int) -> list[int]:
    """Return the most positions that each row of a split may need."""
    prompts, texts = rows.prompt_lengths, rows.lengths
    if split == "train":
        return texts
    generated = [prompt + max_new_tokens for prompt in prompts]
    return [*map(max, texts, generated)] if split == "validation" else generated


def check_positions(
    splits: Mapping[str, TokenTable],
    max_new_tokens: int,
    limit: int,
    reserved: int,
    per_class: int = 0,
) -> None:
    """Check that every row fits in the backbone.

    Args:
        max_new_tokens: generation limit; 0: nothing is generated.
        limit: positions the backbone has.
        reserved: how many of these the soft prompt takes.
        per_class: number of demonstrations of each class; 0: they are not drawn by class.

    Raises:
        UserError: for the first row that does not fit, with the numbers.
    """
    room = limit - reserved
    for split, rows in splits.items():
        for i, most in enumerate(_needed(split, rows, max_new_tokens)):
            if most <= room:
                continue
            row = rows[i]
            for what, needed in positions_needed(split, len(row.prompt), len(row.completion), max_new_tokens):
                if needed > room:
                    shortest = min(rows.lengths)
                    remedy = _remedy(split, row, needed, max_new_tokens, room, reserved, shortest, per_class)
                    raise UserError(
                        f"{row.example.id} needs {needed} positions ({what}), but the backbone has "
                        f"{limit} less {reserved} for the soft prompt = {room}: {remedy}"
                    )


def _remedy(
    split: str,
    row: Encoded,
    needed: int,
    max_new_tokens: int,
    room: int,
    reserved: int,
    shortest: int,
    per_class: int,
) -> str:
    """Name the options that make a row fit.

    Args:
        shortest: length of the shortest text of the split.
    """
    options = []
    if per_class:
        if per_class > 1:
            options.append(f"set demonstrations_per_class to fewer than {per_class}")
        options.append("draw shorter demonstrations by another demonstration_seed")
    elif demonstrations := (len(row.spans) - 2) // 4:
        fewer = "0" if demonstrations == 1 else f"fewer than {demonstrations}"
        options.append(f"set demonstrations to {fewer}")
    if split == "train" and shortest <= room:
        options.append(f"set max_length to {room}, which leaves longer training examples out")
    generates = max_new_tokens and needed == len(row.prompt) + max_new_tokens and split != "train"
    if generates and (most := room - len(row.prompt)) > 0:
        options.append(f"set max_new_tokens to at most {most}")
    if reserved and needed - room < reserved:
        options.append(f"reduce num_virtual_tokens by {needed - room}")
    return " or ".join([*options, "use a backbone with more positions"])

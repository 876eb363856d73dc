"""Limits on lengths and token ids, set by the backbone or the user."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from promptstage.datamodules.encoding import Encoded
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_vocabulary(rows: Iterable[Encoded], size: int, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Check that the backbone has an embedding for each token.

    Args:
        size: number of embeddings.

    Raises:
        UserError: for the first token without one.
    """
    for row in rows:
        largest = max((int(part.max()) for part in (row.prompt, row.completion) if len(part)), default=0)
        if largest >= size:
            raise UserError(
                f"{row.example.id} has token {largest} ({tokenizer.decode([largest])!r}), but the backbone "
                f"has embeddings for {size} tokens"
            )


def short_enough(rows: list[Encoded], max_length: int | None, data_set: str) -> list[Encoded]:
    """Select training rows of at most ``max_length`` tokens, and log the number of others.

    Raises:
        UserError: if none is left.
    """
    if max_length is None:
        return rows
    short = [row for row in rows if row.length <= max_length]
    if not short:
        shortest = min(row.length for row in rows)
        raise UserError(
            f"max_length {max_length} leaves no training example of {data_set}: the shortest has {shortest} "
            "tokens"
        )
    if len(short) < len(rows):
        rank_zero_info(
            f"{data_set}: left out {len(rows) - len(short)} of {len(rows)} training examples with more than "
            f"{max_length} tokens"
        )
    return short


def positions_needed(split: str, row: Encoded, max_new_tokens: int) -> list[tuple[str, int]]:
    """Return the positions that a row of a split may need, each with a description."""
    prompt, completion = len(row.prompt), len(row.completion)
    needs = []
    if split in ("train", "validation"):
        needs.append((f"prompt {prompt} + worked answer {completion}", row.length))
    if split != "train":
        needs.append(
            (
                f"prompt {prompt} + generation limit max_new_tokens {max_new_tokens}",
                prompt + max_new_tokens,
            )
        )
    return needs


def longest(splits: Mapping[str, Sequence[Encoded]], max_new_tokens: int) -> int:
    """Return the positions that the longest text may need, generation included."""
    rows = ((split, row) for split, rows in splits.items() for row in rows)
    return max(
        (needed for split, row in rows for _, needed in positions_needed(split, row, max_new_tokens)),
        default=0,
    )


def check_positions(
    splits: Mapping[str, Sequence[Encoded]], max_new_tokens: int, limit: int, reserved: int
) -> None:
    """Check that every row fits in the backbone.

    Args:
        limit: positions the backbone has.
        reserved: how many of these the soft prompt takes.

    Raises:
        UserError: for the first row that does not fit, with the numbers.
    """
    room = limit - reserved
    for split, rows in splits.items():
        for row in rows:
            for what, needed in positions_needed(split, row, max_new_tokens):
                if needed > room:
                    raise UserError(
                        f"{row.example.id} needs {needed} positions ({what}), but the backbone has "
                        f"{limit} less {reserved} for the soft prompt = {room}: "
                        f"{_remedy(split, row, needed, max_new_tokens, room, reserved)}"
                    )


def _remedy(split: str, row: Encoded, needed: int, max_new_tokens: int, room: int, reserved: int) -> str:
    """Name the options that make a row fit."""
    options = []
    if split == "train" and room > 0:
        options.append(f"set max_length to {room}, which leaves longer training examples out")
    generates = needed == len(row.prompt) + max_new_tokens and split != "train"
    if generates and (most := room - len(row.prompt)) > 0:
        options.append(f"set max_new_tokens to at most {most}")
    if reserved and needed - room < reserved:
        options.append(f"reduce num_virtual_tokens by {needed - room}")
    return " or ".join([*options, "use a backbone with more positions"])

"""Generations in progress, and what ends them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

TokenChoice = Callable[[Tensor, Sequence[int]], Tensor]
"""Chooses the next tokens (r,) from logits (r, vocabulary), given the indices of the r rows."""


@dataclass(frozen=True, eq=False)
class Limits:
    """Limits of the generations of a batch, and the rule that chooses their tokens.

    Attributes:
        max_new_tokens: limit per row.
        stop: strings that end a generation once they are in its text (they stay in the text).
        choose: the rule that chooses the next tokens; None: the most likely ones (greedy decoding).
    """

    max_new_tokens: int
    stop: Sequence[str] = ()
    choose: TokenChoice | None = None


@dataclass(eq=False)
class Row:
    """A generation.

    Attributes:
        index: its index among the rows of its batch, for the rule of choice.
        limits: those of its batch.
        tokens: new token ids so far, without the end token.
        end: the end token, if it was generated.
        prompt: number of tokens of its prompt.
        columns: number of its columns in the cache: prompt, and tokens that have been run.
    """

    index: int
    limits: Limits
    tokens: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    prompt: int = 0
    columns: int = 0

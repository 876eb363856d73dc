"""Batched decoding with a prefix."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from promptstage.lightning_modules.backbone.frozen import FrozenModel
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.rows import Limits, Row, TokenChoice
from promptstage.lightning_modules.backbone.running_rows import RunningRows, joining_passes
from promptstage.lightning_modules.backbone.trace import GenerationTrace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def generate(
    backbone: FrozenModel,
    tokenizer: "PreTrainedTokenizerBase",
    input_ids: Tensor,
    attention_mask: Tensor,
    prefix: Prefix | None,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    choose: TokenChoice | None = None,
    num_samples: int = 1,
) -> list[list[int]]:
    """Decode until an end token, a stop string or the limit.

    Finished rows leave the batch, so that long generations do not hold up short ones.

    Args:
        input_ids: (B, n) prompts, padded on the left.
        attention_mask: (B, n), 1 on content.
        prefix: shared by the batch, or one per example.
        max_new_tokens: limit per example.
        stop: strings that end a generation once they are in its text (they stay in the text).
        choose: the rule that chooses the next tokens; None: the most likely ones (greedy decoding).
        num_samples: number of generations for each prompt; more than one need a shared prefix.

    Returns:
        B · ``num_samples`` lists of new token ids, without the end token; the samples of a prompt in turn.

    Raises:
        FloatingPointError: if the largest logit of a next token is infinite or NaN.
    """
    limits = Limits(max_new_tokens, stop, choose)
    rows = generate_rows(backbone, tokenizer, input_ids, attention_mask, prefix, limits, num_samples)
    return [row.tokens for row in rows]


def generate_rows(
    backbone: FrozenModel,
    tokenizer: "PreTrainedTokenizerBase",
    input_ids: Tensor,
    attention_mask: Tensor,
    prefix: Prefix | None,
    limits: Limits,
    num_samples: int = 1,
    trace: GenerationTrace | None = None,
) -> list[Row]:
    """Decode as :func:`generate` does; return the finished rows.

    Args:
        trace: filled with the last layer's activations.
    """
    rows = [Row(index, limits) for index in range(len(input_ids) * num_samples)]
    running = RunningRows(backbone, tokenizer, prefix, trace)
    with joining_passes(backbone):
        running.add(input_ids, attention_mask, rows, limits.max_new_tokens)
        while running.rows:
            running.step()
    return rows

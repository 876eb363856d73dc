"""Questions as token batches."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from promptstage.datamodules.classes import Classes, join_classes
from promptstage.datamodules.example import Example as Example
from promptstage.datamodules.example import worked_answer as worked_answer
from promptstage.datamodules.templates import Rendered, Template
from promptstage.datamodules.token_ids import closing_tokens, continuation, question_columns
from promptstage.datamodules.token_table import Lists, TokenTable
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
CHUNK = 1024  # examples tokenized at a time


@dataclass
class Tokens:
    """A padded batch of B sequences; spans are half-open column ranges in the padded tensors.

    Attributes:
        input_ids: (B, n) int64.
        attention_mask: (B, n) int64, 1 on tokens and 0 on padding.
        labels: (B, n) int64, -100 where nothing is trained.
        question: (B, 2) int64, columns of the question's text.
        rationale: (B, 2) int64, columns of the completion without its end token; (n, n) if there is none.
        demonstrations: (B, k, 4) int64, columns of the question and of the completion of each demonstration
            in the prompt; zeros where a prompt has fewer; default: none.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    question: Tensor
    rationale: Tensor
    demonstrations: Tensor = None  # type: ignore[assignment]  # made for the batch

    def __post_init__(self) -> None:
        if self.demonstrations is None:
            self.demonstrations = self.question.new_zeros(len(self.question), 0, 4)

    def to(self, device: torch.device | str, **kwargs: Any) -> "Tokens":
        """Move the batch to ``device``."""
        return Tokens(**{name: tensor.to(device, **kwargs) for name, tensor in vars(self).items()})

    def select(self, rows: Sequence[int]) -> "Tokens":
        """Select some rows of the batch, padding unchanged."""
        return Tokens(**{name: tensor[list(rows)] for name, tensor in vars(self).items()})

    def right_padded(self) -> "Tokens":
        """Move all padding to the right, and spans accordingly."""
        start = self.attention_mask.argmax(1, keepdim=True)
        width = self.input_ids.shape[1]
        columns = (torch.arange(width, device=start.device) + start) % width
        return Tokens(
            input_ids=self.input_ids.gather(1, columns),
            attention_mask=self.attention_mask.gather(1, columns),
            labels=self.labels.gather(1, columns),
            question=self.question - start,
            rationale=self.rationale - start,
            demonstrations=shifted(self.demonstrations, -start[:, :, None]),
        )


def shifted(spans: Tensor, by: Tensor) -> Tensor:
    """Shift spans of demonstrations; those that a prompt lacks stay zeros."""
    return torch.where((spans == 0).all(-1, keepdim=True), spans, spans + by)


@dataclass
class Batch:
    """Questions to train on (``gold``) and to generate from (``prompt``); may be empty.

    Attributes:
        examples: the B questions, in the order of the rows.
        gold: right padded: prompt, completion, end token; labels on the last two.
        prompt: left padded: prompt alone; all labels -100.
        dataset: name of the data set of examples that do not name their own.
        max_new_tokens: generation limit.
        stop: texts that end a generation.
        kind: kind of answer of examples that do not name their own; None: that of the data set's name.
        classes: label words and classes of the examples; None for data without label words.
    """

    examples: list[Example]
    gold: Tokens
    prompt: Tokens
    dataset: str
    max_new_tokens: int
    stop: tuple[str, ...]
    kind: str | None = None
    classes: Classes | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def to(self, device: torch.device | str, **kwargs: Any) -> "Batch":
        """Move the batch to ``device``."""
        gold, prompt = self.gold.to(device, **kwargs), self.prompt.to(device, **kwargs)
        classes = None if self.classes is None else self.classes.to(device, **kwargs)
        return replace(self, gold=gold, prompt=prompt, classes=classes)

    def select(self, rows: Sequence[int]) -> "Batch":
        """Select some examples of the batch, padding unchanged."""
        examples = [self.examples[row] for row in rows]
        gold, prompt = self.gold.select(rows), self.prompt.select(rows)
        classes = None if self.classes is None else self.classes.select(rows)
        return replace(self, examples=examples, gold=gold, prompt=prompt, classes=classes)


def join(batches: Sequence[Batch]) -> Batch:
    """Join batches of one data set, padded to the longest."""
    first = batches[0]
    return Batch(
        [example for batch in batches for example in batch.examples],
        _join([batch.gold for batch in batches], left=False),
        _join([batch.prompt for batch in batches], left=True),
        first.dataset,
        first.max_new_tokens,
        first.stop,
        first.kind,
        join_classes([batch.classes for batch in batches]),
    )


def _join(parts: Sequence[Tokens], left: bool) -> Tokens:
    width = max(part.input_ids.shape[1] for part in parts)
    wide = []
    for part in parts:
        more = width - part.input_ids.shape[1]
        sides = (more, 0) if left else (0, more)
        shift = more if left else 0
        wide.append(
            Tokens(
                input_ids=pad(part.input_ids, sides),
                attention_mask=pad(part.attention_mask, sides),
                labels=pad(part.labels, sides, value=IGNORED),
                question=part.question + shift,
                rationale=part.rationale + shift,
                demonstrations=shifted(part.demonstrations, torch.tensor(shift)),
            )
        )
    return Tokens(**{name: torch.cat([getattr(part, name) for part in wide]) for name in vars(wide[0])})


def encode(
    examples: Sequence[Example], template: Template, tokenizer: "PreTrainedTokenizerBase"
) -> TokenTable:
    """Tokenize ``examples``; a prompt's tokens do not depend on its completion.

    Prompt and completion have the tokens of their joint text if these begin with the prompt's tokens.
    Otherwise (a template that ends in a space) the completion is tokenized as a continuation of the prompt.

    Raises:
        UserError: if the tokenizer has no character offsets, or the template loses the question.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer {type(tokenizer).__name__} is not a fast one: promptstage needs its character "
            "offsets to find the question; choose a backbone with a tokenizer.json"
        )
    rendered = template.render_all([example.question for example in examples])
    completions = [
        template.separator + example.completion if example.completion else "" for example in examples
    ]
    prompts, ends = Growing(), Growing()
    spans: list[list[int]] = []
    for start in range(0, len(examples), CHUNK):  # a tokenizer's own results take 20 KB per text
        part = slice(start, start + CHUNK)
        for prompt, completion, columns in _tokenize(rendered[part], completions[part], template, tokenizer):
            prompts.append(prompt)
            ends.append(completion)
            spans.append(columns)
    width = 2 + 4 * template.format.shots
    table = np.zeros((len(examples), width), np.int32)
    for row, columns in zip(table, spans, strict=True):
        row[: len(columns)] = columns
    return TokenTable(examples, prompts.lists(), ends.lists(), table)


class Growing:
    """Lists of token ids that are appended one by one."""

    def __init__(self) -> None:
        self.values, self.lengths = array("i"), array("i")

    def append(self, ids: Sequence[int]) -> None:
        self.values.extend(ids)
        self.lengths.append(len(ids))

    def lists(self) -> Lists:
        return Lists.of(self.values, self.lengths)


def _tokenize(
    rendered: Sequence[Rendered],
    completions: Sequence[str],
    template: Template,
    tokenizer: "PreTrainedTokenizerBase",
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield the ids of each prompt and completion, and the columns of question and demonstrations."""
    special, backend = not template.is_chat, tokenizer.backend_tokenizer
    prompts = [prompt.text for prompt in rendered]
    # Sets the backend's options, such as no padding. The backend alone is faster, and gives the same tokens.
    tokenizer(prompts[:1], add_special_tokens=special, verbose=False)
    encoded = backend.encode_batch(prompts, add_special_tokens=special)
    joint = backend.encode_batch_fast(
        [prompt + text for prompt, text in zip(prompts, completions, strict=True)], add_special_tokens=special
    )
    closing = closing_tokens(tokenizer, encoded[0].ids, encoded[0].offsets)
    for prompt, text, own, both in zip(rendered, completions, encoded, joint, strict=True):
        ids, offsets, joint_ids = own.ids, own.offsets, both.ids
        end = len(ids) - closing
        completion = joint_ids[end : len(joint_ids) - closing]
        if joint_ids[:end] != ids[:end]:
            completion = continuation(tokenizer, text)
        parts = [prompt.question, *(span for pair in prompt.demonstrations for span in pair)]
        columns = [column for span in parts for column in question_columns(offsets[:end], *span)]
        yield ids[:end], _ended(completion, tokenizer.eos_token_id), columns


def _ended(completion: list[int], end_token: int) -> list[int]:
    """Return a completion with the end token, which its text may already have."""
    return completion if completion[-1:] == [end_token] else [*completion, end_token]

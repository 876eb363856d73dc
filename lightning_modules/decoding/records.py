"""Generations of a batch: as tokens, and as graded records."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from promptstage.datamodules.encoding import IGNORED, Batch, Tokens, shifted
from promptstage.grading import find_answer, grade, harness_verdicts
from promptstage.grading.data_sets import default_options
from promptstage.grading.grades import LABEL_WORD
from promptstage.grading.kinds import kind_name
from promptstage.utilities.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Sample(NamedTuple):
    """One of several sampled generations of an example, with its own grade; see :class:`Record`."""

    generation: str
    prediction: str | None
    correct: bool
    reason: str
    new_tokens: int


class Record(NamedTuple):
    """Example with its generation and its grade: a line of ``results.jsonl``, sufficient to grade it again.

    (A named tuple, because Lightning rejects frozen dataclasses among a step's outputs.)

    Attributes:
        dataset: name of the data set.
        options: texts of a multiple-choice question; None for any other.
        generation: the raw text after the prompt.
        prediction: the answer in it; None if there is none.
        reference: the gold answer; empty for a question without one.
        reason: name of the rule that extracted the prediction.
        prompt_tokens: length of the prompt in tokens, without virtual tokens.
        new_tokens: number of generated tokens, of all samples.
        samples: all sampled generations, if there are several; the record's own is the majority's.
        kind: kind of answer, for the grader; None in records of older versions.
        strict_match, flexible_extract: verdicts of lm-evaluation-harness on a number; None for other kinds.
    """

    id: str
    dataset: str
    question: str
    options: tuple[str, ...] | None
    generation: str
    prediction: str | None
    reference: str
    correct: bool
    reason: str
    prompt_tokens: int
    new_tokens: int
    samples: tuple[Sample, ...] | None = None
    kind: str | None = None
    strict_match: bool | None = None
    flexible_extract: bool | None = None


def generated_tokens(batch: Batch, outputs: Sequence[Sequence[int]]) -> Tokens:
    """Append generations to their prompts, right padded like ``batch.gold``; generated tokens are labels.

    Args:
        outputs: B lists of new token ids; an empty one gives an empty rationale.
    """
    tokens = batch.prompt
    lengths = tokens.attention_mask.sum(1)
    width = int(max(length + len(output) for length, output in zip(lengths.tolist(), outputs, strict=True)))
    padding = (tokens.input_ids.shape[1] - lengths)[:, None]
    made = Tokens(
        input_ids=tokens.input_ids.new_zeros(len(outputs), width),
        attention_mask=tokens.attention_mask.new_zeros(len(outputs), width),
        labels=tokens.labels.new_full((len(outputs), width), IGNORED),
        question=tokens.question - padding,
        rationale=torch.stack([lengths, lengths], dim=1),
        demonstrations=shifted(tokens.demonstrations, -padding[:, :, None]),
    )
    for row, (length, output) in enumerate(zip(lengths.tolist(), outputs, strict=True)):
        end = length + len(output)
        new = torch.tensor(list(output), dtype=torch.int64, device=lengths.device)
        made.input_ids[row, :length] = tokens.input_ids[row, -length:]
        made.input_ids[row, length:end] = made.labels[row, length:end] = new
        made.attention_mask[row, :end] = 1
        made.rationale[row, 1] = end
    return made


def grade_batch(
    tokenizer: "PreTrainedTokenizerBase", batch: Batch, outputs: Sequence[Sequence[int]]
) -> list[Record]:
    """Grade the generations of a batch.

    Args:
        outputs: new token ids of each example.

    Raises:
        UserError: naming the example, if it cannot be graded, as by a function that fails.
    """
    if not outputs:
        return []  # batch_decode would return one text
    texts = tokenizer.batch_decode([list(output) for output in outputs], skip_special_tokens=True)
    return _graded(batch, texts, [len(output) for output in outputs])


def label_records(batch: Batch, words: Sequence[str]) -> list[Record]:
    """Return the records of a batch whose answers are label words, each chosen by its first token.

    Args:
        words: the label word of each example.
    """
    return [
        record._replace(prediction=word, correct=word == record.reference, reason=LABEL_WORD)
        for record, word in zip(_graded(batch, words, [1] * len(words)), words, strict=True)
    ]


def _graded(batch: Batch, texts: Sequence[str], new_tokens: Sequence[int]) -> list[Record]:
    lengths = batch.prompt.attention_mask.sum(-1).tolist()
    records = []
    for example, text, count, length in zip(batch.examples, texts, new_tokens, lengths, strict=True):
        dataset = example.dataset or batch.dataset
        kind = kind_name(example.kind or batch.kind or dataset)
        try:
            options = example.options or default_options(dataset)
            if example.answer:
                result = grade(kind, text, example.answer, options)
            else:  # a question to predict an answer for has no reference
                result = find_answer(kind, text, options)
        except UserError as error:
            raise UserError(f"grading of example {example.id}: {error}") from error
        strict, flexible = harness_verdicts(kind, text, example.answer)
        records.append(
            Record(
                id=example.id,
                dataset=dataset,
                question=example.question,
                options=example.options,
                generation=text,
                prediction=result.prediction,
                reference=example.answer,
                correct=result.correct,
                reason=result.reason,
                prompt_tokens=length,
                new_tokens=count,
                kind=kind,
                strict_match=strict,
                flexible_extract=flexible,
            )
        )
    return records

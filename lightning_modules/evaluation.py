"""Generation for a batch, and graded records of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import torch

from promptstage.datamodules.encoding import IGNORED, Batch, Tokens
from promptstage.datamodules.grading import grade
from promptstage.lightning_modules.backbone.calibration import Calibration
from promptstage.lightning_modules.backbone.generation import generate
from promptstage.lightning_modules.backbone.model import Backbone
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.trace import GenerationTrace


class Record(NamedTuple):
    """Example with its generation and its grade: a line of ``results.jsonl``, sufficient to grade it again.

    (A named tuple, because Lightning rejects frozen dataclasses among a step's outputs.)

    Attributes:
        dataset: name for the grader.
        options: texts of a multiple-choice question; None for any other.
        generation: the raw text after the prompt.
        prediction: the answer in it; None if there is none.
        reference: the gold answer; empty for a question without one.
        reason: name of the rule that extracted the prediction.
        prompt_tokens, new_tokens: lengths in tokens, without virtual tokens.
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


@dataclass
class Decoding:
    """Options of callbacks for the generations of ``validate``, ``test`` and ``predict``.

    Attributes:
        trace: record the last layer's activations.
        calibration: heads whose attention is calibrated during generation, though not for losses (ACT:
            "Unveiling and harnessing hidden attention sinks", Yu et al., ICML 2024, arXiv:2406.15765).
    """

    trace: bool = False
    calibration: Calibration | None = None


def generate_batch(
    backbone: Backbone,
    batch: Batch,
    prefix: Prefix | None,
    trace: GenerationTrace | None = None,
    calibration: Calibration | None = None,
) -> list[list[int]]:
    """Generate new token ids for each example of ``batch``, greedily, without the end token."""
    return generate(
        backbone,
        backbone.tokenizer,
        batch.prompt.input_ids,
        batch.prompt.attention_mask,
        prefix,
        batch.max_new_tokens,
        batch.stop,
        trace,
        calibration,
    )


def generated_tokens(batch: Batch, outputs: Sequence[Sequence[int]]) -> Tokens:
    """Append generations to their prompts, right padded like ``batch.gold``; generated tokens are labels.

    Args:
        outputs: B lists of new token ids; an empty one gives an empty rationale.
    """
    tokens = batch.prompt
    lengths = tokens.attention_mask.sum(1)
    width = int(max(length + len(output) for length, output in zip(lengths.tolist(), outputs, strict=True)))
    made = Tokens(
        input_ids=tokens.input_ids.new_zeros(len(outputs), width),
        attention_mask=tokens.attention_mask.new_zeros(len(outputs), width),
        labels=tokens.labels.new_full((len(outputs), width), IGNORED),
        question=tokens.question - (tokens.input_ids.shape[1] - lengths)[:, None],
        rationale=torch.stack([lengths, lengths], dim=1),
    )
    for row, (length, output) in enumerate(zip(lengths.tolist(), outputs, strict=True)):
        end = length + len(output)
        new = torch.tensor(list(output), dtype=torch.int64, device=lengths.device)
        made.input_ids[row, :length] = tokens.input_ids[row, -length:]
        made.input_ids[row, length:end] = made.labels[row, length:end] = new
        made.attention_mask[row, :end] = 1
        made.rationale[row, 1] = end
    return made


class Answers(TypedDict):
    """Output of an evaluation step: records, their token ids, and a trace if one was requested.

    A callback that corrects generations replaces records before the epoch ends.
    """

    records: list[Record]
    generated: list[list[int]]
    trace: GenerationTrace | None


def no_answers() -> Answers:
    """Return the output for an empty batch."""
    return {"records": [], "generated": [], "trace": None}


def answer(backbone: Backbone, batch: Batch, prefix: Prefix | None, decoding: Decoding) -> Answers:
    """Generate greedily for each example of ``batch``, and grade the generations."""
    trace = GenerationTrace(backbone, batch.prompt.attention_mask) if decoding.trace else None
    generated = generate_batch(backbone, batch, prefix, trace, decoding.calibration)
    return {"records": grade_batch(backbone, batch, generated), "generated": generated, "trace": trace}


def grade_batch(backbone: Backbone, batch: Batch, outputs: list[list[int]]) -> list[Record]:
    """Grade the new token ids of each example of ``batch``."""
    texts = backbone.tokenizer.batch_decode(outputs, skip_special_tokens=True)
    lengths = batch.prompt.attention_mask.sum(-1).tolist()
    records = []
    for example, text, output, length in zip(batch.examples, texts, outputs, lengths, strict=True):
        result = grade(batch.dataset, text, example.answer, example.options)
        records.append(
            Record(
                id=example.id,
                dataset=batch.dataset,
                question=example.question,
                options=example.options,
                generation=text,
                prediction=result.prediction,
                reference=example.answer,
                correct=result.correct,
                reason=result.reason,
                prompt_tokens=length,
                new_tokens=len(output),
            )
        )
    return records

"""From a batch to graded records."""

from typing import NamedTuple

from datamodules.encoding import Batch
from datamodules.grading import grade
from lightning_modules.backbone.generation import generate
from lightning_modules.backbone.model import Backbone
from lightning_modules.backbone.prefix import Prefix


class Record(NamedTuple):
    """One example, its generation and its grade: a line of ``results.jsonl``.

    (A named tuple: Lightning refuses frozen dataclasses among a step's outputs.)

    It holds all that grading it again needs.

    Attributes:
        dataset: name for the grader.
        options: texts of a multiple-choice question, ``None`` for any other.
        generation: the raw text after the prompt.
        prediction: the answer found in it, ``None`` when there is none.
        reference: the gold answer; empty for a question without one.
        reason: which rule found the prediction.
        prompt_tokens, new_tokens: lengths in tokens, virtual tokens not counted.
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


def answer(backbone: Backbone, batch: Batch, prefix: Prefix | None) -> list[Record]:
    """Generate greedily for every example of ``batch`` and grade what comes."""
    tokens = batch.prompt
    outputs = generate(
        backbone,
        backbone.tokenizer,
        tokens.input_ids,
        tokens.attention_mask,
        prefix,
        batch.max_new_tokens,
        batch.stop,
    )
    texts = backbone.tokenizer.batch_decode(outputs, skip_special_tokens=True)
    lengths = tokens.attention_mask.sum(-1).tolist()
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

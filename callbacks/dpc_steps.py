"""Steps of Dynamic Prompt Corruption (DPC) on a batch: measure R, choose virtual tokens, generate again."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from promptstage.datamodules.encoding import Batch
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.correction import (
    Corruption,
    corrupted_prefix,
    locate,
    measure,
    measure_anew,
)
from promptstage.lightning_modules.evaluation import (
    Answers,
    Record,
    generate_batch,
    generated_tokens,
    grade_batch,
)
from promptstage.lightning_modules.functional.corruption import BetaMode, Located


class Measured(NamedTuple):
    """R and β of an example, None if its rationale is too short, and the seconds spent."""

    ratio: float | None
    beta: float | None
    seconds: float


@dataclass
class Waiting:
    """Generation to correct: row of ``answers``, and the example as a batch of one."""

    answers: Answers
    row: int
    batch: Batch
    measured: Measured

    @property
    def record(self) -> Record:
        """Record of the generation."""
        return self.answers["records"][self.row]


@torch.no_grad()
def measure_answers(
    module: SoftPromptModule, prefix: Prefix, answers: Answers, batch: Batch, beta: BetaMode
) -> list[Measured]:
    """Compute R and β of each of a batch's generations from its trace, which is dropped afterwards."""
    started = time.monotonic()
    trace, generated = answers["trace"], answers["generated"]
    assert trace is not None
    if prefix.virtual(trace.last):
        trigger = measure(trace, generated, prefix, beta)
    else:
        rows = {example.id: row for row, example in enumerate(batch.examples)}
        tokens = generated_tokens(batch.select([rows[record.id] for record in answers["records"]]), generated)
        trigger = measure_anew(module.backbone, tokens, prefix, generated, beta)
    answers["trace"] = None
    seconds = (time.monotonic() - started) / len(generated)
    measured = []
    for row in range(len(generated)):
        values = [float(part[row]) for part in trigger]
        ratio, value = (None if value != value else value for value in values)
        measured.append(Measured(ratio, value, seconds))
    return measured


def accumulating_tokens(
    module: SoftPromptModule,
    prefix: Prefix,
    batch: Batch,
    waiting: Sequence[Waiting],
    layers: Sequence[int],
    corruption: Corruption,
) -> Located:
    """Find the virtual token of each example that accumulates most flow in ``layers``."""
    tokens = generated_tokens(batch, [example.answers["generated"][example.row] for example in waiting])
    return locate(module.backbone, tokens, prefix, list(layers), corruption.alpha, corruption.accumulate_over)


def random_tokens(prefix: Prefix, batch: Batch, seed: int) -> Located:
    """Draw a virtual token for each example, independent of batches and ranks."""
    count = prefix.total - prefix.num_leading
    draws = [random.Random(f"{seed}/{example.id}").randrange(count) for example in batch.examples]
    drawn = torch.tensor(draws, device=batch.prompt.input_ids.device)
    return Located(drawn, torch.full_like(drawn, -1))


def generate_corrected(
    module: SoftPromptModule, batch: Batch, token: Tensor, corruption: Corruption
) -> list[Record]:
    """Generate and grade, each example with the prompt corrupted at its ``token``, (B,)."""
    prefix = corrupted_prefix(module, token, corruption)
    return grade_batch(module.backbone, batch, generate_batch(module.backbone, batch, prefix))

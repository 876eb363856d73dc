"""Dynamic Prompt Corruption (DPC) around an engine: generate, trigger, corrupt, generate again.

"Improving complex reasoning with Dynamic Prompt Corruption", Fan et al., ICLR 2025, arXiv:2503.13208 (§3).
"""

import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from promptstage.datamodules.encoding import Batch, join
from promptstage.lightning_modules.backbone.prefix import Prefix
from promptstage.lightning_modules.backbone.trace import GenerationTrace, traceable
from promptstage.lightning_modules.decoding.corruption import Corruption, corrupted_prefix, locate
from promptstage.lightning_modules.decoding.decoder import Decoder
from promptstage.lightning_modules.decoding.engines import Engine
from promptstage.lightning_modules.decoding.records import Record, generated_tokens, grade_batch
from promptstage.lightning_modules.decoding.stream import Question, Stream, answers
from promptstage.lightning_modules.decoding.trigger import measure_trigger, measure_trigger_anew
from promptstage.lightning_modules.functional.corruption import Located
from promptstage.utilities.recorded import recorded_settings

Mode = Literal["dpc", "all", "random", "random_all", "none"]
THRESHOLD_MODES = ("dpc", "random")  # the others trigger all examples or none


class Correction(NamedTuple):
    """Correction of one example.

    Attributes:
        before, after: records of the first and of the final generation; the same if nothing was corrected.
        ratio: R, share of affected tokens in the rationale's second half; None for fewer than 2 tokens.
        beta: β, flow from the prompt above which a token is affected.
        threshold: threshold of R; None in modes without one.
        triggered: whether the answer was generated again.
        seconds: time to measure and correct the example.
        token: j, index of the corrupted virtual token among those of all stages.
        stage: index of its stage.
        layer: layer in which most flow accumulated.
    """

    id: str
    before: Record
    after: Record
    ratio: float | None
    beta: float | None
    threshold: float | None
    triggered: bool
    seconds: float
    token: int | None = None
    stage: int | None = None
    layer: int | None = None


class Waiting(NamedTuple):
    """Triggered example, whose answer is still to be generated again.

    Attributes:
        batch: the example as a batch of one.
        output: token ids of its first generation.
        measured: the correction so far, with the first generation as final one.
    """

    batch: Batch
    output: Sequence[int]
    measured: Correction


class DPCDecoder(Decoder):
    """Decoder that corrects the generations of an engine (DPC §3).

    A triggered example, whose R exceeds the threshold, waits until there is a whole batch of them; its record
    is finished then.

    Attributes:
        corrections: by example id, those of finished records.
    """

    def __init__(
        self,
        engine: Engine,
        corruption: Corruption,
        mode: Mode,
        threshold: float | None,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        """
        Args:
            engine: generates the answers, one for each example.
            corruption: settings of the corruption.
            mode: which examples are corrected, and at which virtual token (see ``callbacks.dpc.DPC``).
            threshold: R above which an example is triggered; None in modes without a threshold.
            batch_size: number of examples to correct at a time.
            seed: seed of the random modes.
        """
        self.engine, self.corruption, self.mode = engine, corruption, mode
        self.threshold = threshold if mode in THRESHOLD_MODES else None
        self.batch_size, self.seed = batch_size, seed
        self.corrections: dict[str, Correction] = {}
        self._waiting: list[Waiting] = []
        self._stream: Stream | None = None
        self._trace: GenerationTrace | None = None

    def begin(self, module: Any) -> None:
        super().begin(module)
        self.corrections, self._waiting = {}, []
        self._stream, self._trace = None, None

    def generate(self, batch: Batch) -> list[Record]:
        """Generate for a batch, measure R, and correct waiting examples once they fill a batch."""
        if self._stream is None:
            self._trace = GenerationTrace(self.backbone) if traceable(self.backbone) else None
            self._stream = self.engine.stream(self._trace)
        records = self._first(self._stream.advance(batch, self.engine.choice(batch)))
        while len(self._waiting) >= self.batch_size:
            records += self._correct()
        return records

    def flush(self) -> list[Record]:
        """Finish all generations, and correct the examples that still wait."""
        stream, self._stream = self._stream, None  # which holds the prefix in memory
        records = [] if stream is None else self._first(stream.finish())
        while self._waiting:
            records += self._correct()
        return records

    def summary(self) -> dict[str, Any]:
        own = {"mode": self.mode, "threshold": self.threshold, "seed": self.seed, **asdict(self.corruption)}
        return super().summary() | own | {"engine": recorded_settings(self.engine)}

    def _prompt(self) -> Prefix:
        prefix = self.prefix
        assert prefix is not None  # as the callback checks
        return prefix

    def _first(self, questions: Sequence[Question]) -> list[Record]:
        """Measure generations with the whole prompt; return the records that are not triggered."""
        self.generated = {}
        if not questions:
            return []
        batch, outputs = answers(questions)
        before = self.grade(batch, outputs)
        started = time.monotonic()
        prefix, trace, beta = self._prompt(), self._trace, self.corruption.beta
        with torch.no_grad():
            if trace is not None and prefix.virtual(trace.last):
                trigger = measure_trigger(trace, [question.rows[0] for question in questions], prefix, beta)
            else:
                tokens = generated_tokens(batch, outputs)
                trigger = measure_trigger_anew(self.backbone, tokens, prefix, outputs, beta)
        seconds = (time.monotonic() - started) / len(batch)
        finished = []
        for row, record in enumerate(before):
            ratio, above = (_number(part[row]) for part in trigger)
            measured = Correction(record.id, record, record, ratio, above, self.threshold, False, seconds)
            if self._triggers(ratio) and outputs[row]:
                self._waiting.append(Waiting(batch.select([row]), outputs[row], measured))
            else:
                finished.append(self._finish(measured))
        return finished

    def _triggers(self, ratio: float | None) -> bool:
        if self.mode not in THRESHOLD_MODES:
            return self.mode in ("all", "random_all")
        assert self.threshold is not None
        return ratio is not None and ratio > self.threshold

    @torch.no_grad()
    def _correct(self) -> list[Record]:
        """Generate the first waiting examples again, each with its own corrupted prompt."""
        started = time.monotonic()
        chosen, self._waiting = self._waiting[: self.batch_size], self._waiting[self.batch_size :]
        batch, prefix = join([example.batch for example in chosen]), self._prompt()
        located = self._located(batch, prefix, [example.output for example in chosen])
        # If no token accumulates (``alpha``), prompt and answer stay unchanged.
        rows = [row for row, token in enumerate(located.token.tolist()) if token >= 0]
        after = dict(zip(rows, self._again(batch.select(rows), located.token[rows]), strict=True))
        stages = torch.tensor(prefix.stages).cumsum(0)
        seconds = (time.monotonic() - started) / len(chosen)
        finished = []
        for row, example in enumerate(chosen):
            token, layer = int(located.token[row]), int(located.layer[row])
            done = example.measured._replace(triggered=True, seconds=example.measured.seconds + seconds)
            if row in after:
                stage = int((stages <= token).sum())
                done = done._replace(after=after[row], token=token, stage=stage)
                done = done._replace(layer=layer if layer >= 0 else None)
            finished.append(self._finish(done))
        return finished

    def _located(self, batch: Batch, prefix: Prefix, outputs: Sequence[Sequence[int]]) -> Located:
        """Find the virtual token to corrupt in each example."""
        if self.mode in ("random", "random_all"):
            return random_tokens(prefix, batch, self.seed)
        corruption, tokens = self.corruption, generated_tokens(batch, outputs)
        layers = corruption.layers(prefix)
        return locate(self.backbone, tokens, prefix, layers, corruption.alpha, corruption.accumulate_over)

    def _again(self, batch: Batch, token: Tensor) -> list[Record]:
        """Generate and grade, each example with the prompt corrupted at its ``token``, (B,)."""
        if not len(batch):
            return []
        prefix = corrupted_prefix(self.module, token, self.corruption)
        return grade_batch(self.backbone.tokenizer, batch, self.engine.tokens(batch, prefix))

    def _finish(self, correction: Correction) -> Record:
        self.corrections[correction.id] = correction
        return correction.after


def random_tokens(prefix: Prefix, batch: Batch, seed: int) -> Located:
    """Draw a virtual token for each example, independent of batches and ranks."""
    count = prefix.total - prefix.num_leading
    draws = [random.Random(f"{seed}/{example.id}").randrange(count) for example in batch.examples]
    drawn = torch.tensor(draws, device=batch.prompt.input_ids.device)
    return Located(drawn, torch.full_like(drawn, -1))


def _number(value: Tensor) -> float | None:
    number = float(value)
    return None if number != number else number
